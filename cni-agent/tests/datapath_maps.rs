//! Ring 2: the pinned maps through the datapath's own interface.

mod support;

use cni_agent::datapath::{Datapath, DatapathConfig, LogLevel};
use support::BpfDir;

#[test]
#[ignore = "needs root and CAP_BPF"]
fn smoke() {
    let bpf = BpfDir::new();
    let t = std::time::Instant::now();
    let level = std::env::var("LVL").map_or(LogLevel::Off, |_| LogLevel::Trace);
    let d = match Datapath::load(&DatapathConfig {
        bpf_dir: bpf.dir(),
        log_level: level,
    }) {
        Ok(d) => d,
        Err(e) => panic!("{e}"),
    };
    println!("{:?}", t.elapsed());
    println!("{}", support::run("bpftool prog show"));
    println!("{:?}", d.pinned());
}
