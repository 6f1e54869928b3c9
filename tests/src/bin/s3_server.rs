//! A small S3 server on this machine, for tests and for trying things out: a bucket is a folder below `--root`.
//!
//! Its first line on stdout is what a shell needs to use it, once it listens:
//! `export AWS_ENDPOINT_URL=http://127.0.0.1:PORT AWS_ALLOW_HTTP=true …`. It is too slow to measure speed with.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tokio::net::TcpListener;

const ACCESS_KEY: &str = "strand";
const SECRET_KEY: &str = "strand-local";

/// Serves S3 on the loopback interface.
#[derive(Parser)]
struct Flags {
    /// The folder that holds the buckets; made where it is missing.
    #[arg(long)]
    root: PathBuf,
    /// The port; 0 chooses a free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// A bucket to make.
    #[arg(long, default_value = "strand")]
    bucket: String,
    /// Stop after this many seconds.
    #[arg(long)]
    seconds: Option<u64>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let bucket = flags.root.join(&flags.bucket);
    std::fs::create_dir_all(&bucket).with_context(|| bucket.display().to_string())?;
    let listener = TcpListener::bind(("127.0.0.1", flags.port))
        .await
        .with_context(|| format!("port {}", flags.port))?;
    let service = service(&flags)?;
    say_how_to_use_it(listener.local_addr()?.port())?;
    let serving = serve(listener, service);
    match flags.seconds {
        None => serving.await,
        Some(seconds) => match tokio::time::timeout(Duration::from_secs(seconds), serving).await {
            Ok(ended) => ended,
            Err(_) => Ok(()),
        },
    }
}

fn service(flags: &Flags) -> anyhow::Result<S3Service> {
    let files = FileSystem::new(&flags.root)
        .map_err(|error| anyhow::anyhow!("{}: {error:?}", flags.root.display()))?;
    let mut builder = S3ServiceBuilder::new(files);
    builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
    Ok(builder.build())
}

fn say_how_to_use_it(port: u16) -> std::io::Result<()> {
    let mut stdout = std::io::stdout();
    writeln!(
        stdout,
        "export AWS_ENDPOINT_URL=http://127.0.0.1:{port} AWS_ALLOW_HTTP=true AWS_REGION=us-east-1 \
         AWS_ACCESS_KEY_ID={ACCESS_KEY} AWS_SECRET_ACCESS_KEY={SECRET_KEY}"
    )?;
    stdout.flush()
}

async fn serve(listener: TcpListener, service: S3Service) -> anyhow::Result<()> {
    loop {
        let (socket, _) = listener.accept().await.context("accept a connection")?;
        let service = service.clone();
        tokio::spawn(async move {
            let server = Builder::new(TokioExecutor::new());
            let connection = server.serve_connection(TokioIo::new(socket), service);
            if let Err(error) = connection.await {
                eprintln!("s3_server: connection: {error}");
            }
        });
    }
}
