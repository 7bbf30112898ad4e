//! Has the binary made anew where the browser pages were: they are embedded as they lie in `src/web/ui/dist`.

fn main() {
    let pages = "src/web/ui/dist";
    // Without them the binary says so itself, and a folder that is not there would be looked for with each build.
    if let Err(error) = std::fs::create_dir_all(pages) {
        println!("cargo:warning=cannot make {pages}: {error}");
    }
    println!("cargo:rerun-if-changed={pages}");
}
