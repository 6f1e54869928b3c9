//! Defaults of single fields, as serde wants them: functions.

pub(crate) fn init_std() -> f64 {
    0.02
}

pub(crate) fn rms_norm_eps() -> f64 {
    1e-6
}

pub(crate) fn rope_theta() -> f64 {
    10_000.0
}

pub(crate) fn max_position_embeddings() -> usize {
    2048
}

pub(crate) fn local_frames() -> usize {
    16
}

pub(crate) fn betas() -> [f64; 2] {
    [0.9, 0.999]
}

pub(crate) fn eps() -> f64 {
    1e-8
}

pub(crate) fn lr_scale() -> f64 {
    1.0
}

pub(crate) fn everything() -> Vec<String> {
    vec!["*".into()]
}
