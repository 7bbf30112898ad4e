//! The command line: see [`answerd::cli`].

use std::process::ExitCode;

use clap::Parser;

#[actix_web::main]
async fn main() -> ExitCode {
    // With the feature `failpoints`, the fault tests name here what is to fail.
    let _scenario = fail::has_failpoints().then(fail::FailScenario::setup);
    answerd::cli::run(answerd::cli::Cli::parse()).await
}
