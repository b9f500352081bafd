//! `fairlead uninstall`: takes Fairlead off this node.

use crate::{
    install::{
        HostFolders,
        uninstall::{Choice, Places, Removal, uninstall},
    },
    server,
};
use clap::Args;
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};
use tokio::signal::unix::{SignalKind, signal};

/// What to remove; the places are those that the agent was told.
#[derive(Args, Debug)]
pub(super) struct UninstallArgs {
    /// Do it. Without this or --dry-run nothing is done.
    #[arg(long)]
    yes: bool,

    /// Only list what would be removed.
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,

    /// Leave running pods their network, that is links, programs, maps, routes and the store; only
    /// the plugin, its configuration and the socket go.
    #[arg(long)]
    keep_pods: bool,

    /// Also while an agent runs, which puts back what is taken away.
    #[arg(long)]
    force: bool,

    /// Stay until told to end once all is removed: for a DaemonSet, which counts a node as done then.
    #[arg(long)]
    stay: bool,

    /// Folder of the agent's store and spool.
    #[arg(long, env = "FAIRLEAD_STATE_DIR", default_value = "/var/lib/fairlead")]
    state_dir: PathBuf,

    /// Folder of the pinned maps and links.
    #[arg(long, env = "FAIRLEAD_BPF_DIR", default_value = "/sys/fs/bpf/fairlead")]
    bpf_dir: PathBuf,

    #[command(flatten)]
    folders: HostFolders,
}

/// Exits with 0 when all is gone, 1 when something could not be removed, 2 when it was refused.
pub(super) fn run(args: UninstallArgs, socket: &Path) -> ExitCode {
    match work(args, socket) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("fairlead: {error}");
            ExitCode::from(2)
        }
    }
}

fn work(args: UninstallArgs, socket: &Path) -> Result<ExitCode, String> {
    if !args.yes && !args.dry_run {
        return Err("this ends the network of this node's pods: say --yes to do it, --dry-run to see what would go".to_owned());
    }
    let running = server::is_served(socket).map_err(|e| format!("{}: {e}", socket.display()))?;
    if running && !args.force && !args.dry_run {
        return Err(format!(
            "an agent answers at {}: end it first (delete its DaemonSet), it would put back what is taken away; --force does it all the same",
            socket.display()
        ));
    }
    let choice = Choice {
        dry_run: args.dry_run,
        keep_pods: args.keep_pods,
    };
    let places = Places {
        bin_dir: args.folders.cni_bin_dir,
        conf_dir: args.folders.cni_conf_dir,
        bpf_dir: args.bpf_dir,
        state_dir: args.state_dir,
        socket: socket.to_owned(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("can't start: {e}"))?;
    runtime.block_on(async {
        let done = uninstall(&places, choice).await;
        super::print::print(&text(&done, choice))?;
        if done.iter().any(|removal| removal.count.is_err()) {
            return Ok(ExitCode::FAILURE);
        }
        if args.stay {
            let mut term = signal(SignalKind::terminate()).map_err(|e| format!("SIGTERM: {e}"))?;
            let _told = term.recv().await;
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// A line for each thing.
fn text(done: &[Removal], choice: Choice) -> String {
    let verb = if choice.dry_run {
        "would go"
    } else {
        "removed"
    };
    let line = |removal: &Removal| match &removal.count {
        Ok(0) => format!("not there  {}\n", removal.what),
        Ok(1) => format!("{verb:9}  {}\n", removal.what),
        Ok(count) => format!("{verb:9}  {} ({count})\n", removal.what),
        Err(fault) => format!("failed     {}: {fault}\n", removal.what),
    };
    done.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_has_a_line_that_tells_what_became_of_it() {
        let removal = |what: &str, count| Removal {
            what: what.to_owned(),
            count,
        };
        let done = [
            removal("/a", Ok(1)),
            removal("routes", Ok(3)),
            removal("/b", Ok(0)),
            removal("/c", Err("read-only".to_owned())),
        ];
        let expected =
            "removed    /a\nremoved    routes (3)\nnot there  /b\nfailed     /c: read-only\n";
        assert_eq!(text(&done, Choice::default()), expected);
    }
}
