//! The GPUs of this machine, as far as the system says without CUDA.

/// NVIDIA devices of this machine that CUDA_VISIBLE_DEVICES leaves visible.
pub fn visible_gpus() -> usize {
    let entries = std::fs::read_dir("/dev").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let present = names.filter(|name| is_gpu(name)).count();
    match std::env::var("CUDA_VISIBLE_DEVICES") {
        Ok(visible) => present.min(listed(&visible)),
        Err(_) => present,
    }
}

fn is_gpu(name: &str) -> bool {
    let number = name.strip_prefix("nvidia");
    number.is_some_and(|number| number.parse::<u32>().is_ok())
}

/// Entries before the first that names no device, as CUDA reads them.
fn listed(visible: &str) -> usize {
    let is_device = |entry: &&str| !entry.trim().is_empty() && !entry.trim().starts_with('-');
    visible.split(',').take_while(is_device).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_counted_as_cuda_does() {
        assert!(is_gpu("nvidia0") && is_gpu("nvidia12"));
        assert!(!is_gpu("nvidiactl") && !is_gpu("nvidia-uvm"));
        assert_eq!(listed("0,2,5"), 3);
        assert_eq!(listed("0,-1,5"), 1);
        assert_eq!(listed(""), 0);
    }
}
