//! Compiles the C++ side against the libtorch that `LIBTORCH` points to.

use std::path::PathBuf;

fn main() {
    let libtorch = PathBuf::from(
        std::env::var("LIBTORCH").expect("LIBTORCH is not set: run `cargo xtask setup`"),
    );
    let include = libtorch.join("include");
    assert!(
        include.join("torch/csrc/distributed/c10d/ProcessGroupGloo.hpp").exists(),
        "{} holds no libtorch headers: run `cargo xtask setup`",
        libtorch.display()
    );
    cxx_build::bridges([
        "src/tensor.rs",
        "src/autograd.rs",
        "src/blob.rs",
        "src/c10d.rs",
        "src/device.rs",
        "src/kernels.rs",
        "src/optim.rs",
    ])
    .files(
        ["autograd", "blob", "c10d", "device", "kernels", "optim"]
            .map(|name| format!("src/cpp/{name}.cpp")),
    )
    .std("c++17")
    // System headers: libtorch's own warnings are not ours to mend.
    .flag(format!("-isystem{}", include.display()))
    .flag(format!("-isystem{}", include.join("torch/csrc/api/include").display()))
    .include("gloo-headers")
    .include("src/cpp")
    .define("USE_C10D_GLOO", None)
    // libtorch's threads are OpenMP's.
    .flag("-fopenmp")
    .flag("-Wno-unused-parameter")
    .compile("strand_torch");
    println!("cargo:rustc-link-search=native={}", libtorch.join("lib").display());
    let library = libtorch.join("lib").canonicalize().expect("LIBTORCH/lib exists");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", library.display());
    println!("cargo:rustc-link-lib=torch_cpu");
    println!("cargo:rustc-link-lib=c10");
    println!("cargo:rustc-link-lib=dylib:+verbatim=libgomp.so.1");
    for path in ["src", "gloo-headers"] {
        println!("cargo:rerun-if-changed={path}");
    }
    println!("cargo:rerun-if-env-changed=LIBTORCH");
}
