//! Fairlead's chores: `cargo xtask <verb>`.

mod bench;
mod demo;
mod lab;
#[cfg(test)]
mod scenarios;
mod table;

use clap::Parser;

#[derive(Parser)]
enum Verb {
    Demo(demo::Args),
    Bench(bench::Args),
    #[command(hide = true)]
    LabProbe(bench::worker::Args),
}

fn main() -> anyhow::Result<()> {
    match Verb::parse() {
        Verb::Demo(args) => demo::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::LabProbe(args) => bench::worker::run(args),
    }
}
