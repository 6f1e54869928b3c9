//! Build script of every package whose programs load libtorch: tells them where it lies.

fn main() {
    let libtorch = std::env::var("LIBTORCH").expect("LIBTORCH is not set: run `cargo xtask setup`");
    let library = std::path::Path::new(&libtorch)
        .join("lib")
        .canonicalize()
        .unwrap_or_else(|e| panic!("{libtorch}/lib: {e}: run `cargo xtask setup`"));
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", library.display());
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-changed={}", library.display());
}
