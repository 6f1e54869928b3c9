//! `strand-worker encode FOLDER`: frames from stdin to features on stdout, as [`strand_data::encoding`] says.
//!
//! It ends when stdin does, so it does not outlive the `strand data extract` that started it.

mod args;

use std::error::Error;
use std::ffi::OsString;
use std::io::{self, BufReader, IsTerminal, Read, Write};

use strand_control::ExitCode;
use strand_data::encoding::{Ready, Reply, Request, receive, send};
use strand_data::{Dtype, Encoder as Description};
use strand_vision::{Encoder, Options, VisionError};
use tch::{Cuda, Device, Kind, Tensor};

use args::{Args, Compute, Place};

/// Most frames of a request.
const MOST_FRAMES: usize = 1 << 16;

/// Why the process ends.
#[derive(Debug, thiserror::Error)]
enum EncodeFailure {
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Vision(#[from] VisionError),
    #[error("the pipe to `strand data extract` broke")]
    Pipe(#[from] io::Error),
    #[error("a request of {0} frames")]
    Frames(usize),
}

impl EncodeFailure {
    fn exit_code(&self) -> u8 {
        match self {
            EncodeFailure::Usage(_) => ExitCode::Usage.code(),
            EncodeFailure::Vision(error) => error.exit_code(),
            EncodeFailure::Pipe(_) | EncodeFailure::Frames(_) => ExitCode::Failed.code(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            EncodeFailure::Usage(_) => Some("it is started by `strand data extract`".to_owned()),
            EncodeFailure::Vision(error) => error.hint(),
            EncodeFailure::Pipe(_) | EncodeFailure::Frames(_) => None,
        }
    }

    /// The message and those of its causes.
    fn message(&self) -> String {
        let mut message = self.to_string();
        let mut source = self.source();
        while let Some(error) = source {
            let cause = error.to_string();
            // A transparent error repeats itself as its own cause.
            if !message.ends_with(&cause) {
                message.push_str(": ");
                message.push_str(&cause);
            }
            source = error.source();
        }
        message
    }
}

/// Encodes until stdin ends and returns the exit code. A failure is told on stdout too, where the parent reads it.
pub fn main(words: impl Iterator<Item = OsString>) -> u8 {
    let (mut stdin, mut stdout) = (BufReader::new(io::stdin().lock()), io::stdout().lock());
    let Err(failure) = run(words, &mut stdin, &mut stdout) else {
        return ExitCode::Done.code();
    };
    let (message, hint, exit_code) = (failure.message(), failure.hint(), failure.exit_code());
    let reply = Reply::Failed { message: message.clone(), hint, exit_code };
    // Who reads stdout tells people about it.
    if io::stdout().is_terminal() || send(&mut stdout, &reply, &[]).is_err() {
        eprintln!("error: {message}");
    }
    exit_code
}

fn run(
    words: impl Iterator<Item = OsString>,
    stdin: &mut impl Read,
    stdout: &mut impl Write,
) -> Result<(), EncodeFailure> {
    let args = Args::parse(words).map_err(EncodeFailure::Usage)?;
    if let Some(threads) = args.threads {
        tch::set_num_threads(threads);
    }
    let device = device(args.device)?;
    let options = Options { kind: kind(args.compute), device, batch: args.batch };
    let encoder = Encoder::open(&args.folder, options)?;
    let ready = describe(&encoder, args.compute, device);
    send(stdout, &Reply::Ready(ready.clone()), &[])?;
    while let Some(request) = receive::<Request>(stdin)? {
        if !(1..=MOST_FRAMES).contains(&request.frames) {
            return Err(EncodeFailure::Frames(request.frames));
        }
        let side = ready.encoder.image_size as usize;
        let mut pixels = vec![0; request.frames * side * side * 3];
        stdin.read_exact(&mut pixels)?;
        let features = encoder.encode(&pixels, &request.questions)?;
        send(stdout, &Reply::Features, &bytes(&features, ready.dtype)?)?;
    }
    Ok(())
}

fn device(place: Place) -> Result<Device, VisionError> {
    // Without libtorch's CUDA side there are no GPUs.
    let count = strand_torch::load_cuda().map_or(0, |()| Cuda::device_count().max(0) as usize);
    match place {
        Place::Cpu => Ok(Device::Cpu),
        Place::Auto if count == 0 => Ok(Device::Cpu),
        Place::Auto => Ok(Device::Cuda(0)),
        Place::Cuda(index) if index < count => Ok(Device::Cuda(index)),
        Place::Cuda(_) => Err(VisionError::Device(place.to_string())),
    }
}

fn kind(compute: Compute) -> Kind {
    match compute {
        Compute::Fp32 => Kind::Float,
        Compute::Bf16 => Kind::BFloat16,
        Compute::Fp16 => Kind::Half,
    }
}

fn describe(encoder: &Encoder, compute: Compute, device: Device) -> Ready {
    let config = encoder.config();
    let place = match device {
        Device::Cuda(index) => Place::Cuda(index),
        _ => Place::Cpu,
    };
    Ready {
        encoder: Description {
            kind: config.family.as_str().to_owned(),
            hash: encoder.hash().to_owned(),
            config: config.summary(),
            // Checked to be at most 4096.
            image_size: config.vision.image_size as u32,
            sampling: String::new(),
            question_conditioned: config.family.is_question_conditioned(),
        },
        tokens: config.num_query_tokens as usize,
        dim: config.qformer.hidden_size as usize,
        dtype: match compute {
            Compute::Bf16 => Dtype::Bf16,
            Compute::Fp32 | Compute::Fp16 => Dtype::F16,
        },
        compute: compute.as_str().to_owned(),
        device: place.to_string(),
        cuda_devices: Cuda::device_count().max(0) as usize,
    }
}

/// Values as a shard has them.
fn bytes(features: &Tensor, dtype: Dtype) -> Result<Vec<u8>, VisionError> {
    let kind = match dtype {
        Dtype::F16 => Kind::Half,
        Dtype::Bf16 => Kind::BFloat16,
    };
    let features = features.f_to_kind(kind)?.f_to_device(Device::Cpu)?.f_contiguous()?;
    let mut bytes = vec![0; features.numel() * Dtype::BYTES];
    features.f_copy_data_u8(&mut bytes, features.numel())?;
    Ok(bytes)
}
