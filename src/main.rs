//! The command line: see [`answerd::cli`].

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // With the feature `failpoints`, the fault tests name here what is to fail.
    let _scenario = fail::has_failpoints().then(fail::FailScenario::setup);
    if let Some(path) = std::env::var_os("FAILPOINTS_FILE").filter(|_| fail::has_failpoints()) {
        std::thread::spawn(move || follow_failpoints(path.as_ref()));
    }
    answerd::cli::run(answerd::cli::Cli::parse())
}

/// Has a running process fail where a file says so, `point=action` on each line, as often as the file changes.
fn follow_failpoints(path: &std::path::Path) {
    let mut known = String::new();
    loop {
        let told = std::fs::read_to_string(path).unwrap_or_default();
        if told != known {
            for (point, action) in told.lines().filter_map(|line| line.split_once('=')) {
                if let Err(error) = fail::cfg(point, action) {
                    eprintln!("the failpoint {point}={action}: {error}");
                }
            }
            known = told;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}
