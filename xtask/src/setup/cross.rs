//! What building for another processor needs: Rust's libraries for it, and a C compiler that links and
//! builds the C parts of the agent's cryptography. Set up when `cargo xtask image --arch` asks for it.

use super::programs;
use crate::workspace::{self, in_path};
use anyhow::Result;
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// A processor that is not this machine's.
pub(super) struct Cross {
    /// As the compiler calls it.
    arch: &'static str,
    /// Debian's packages of the C compiler and its C library.
    packages: [&'static str; 2],
}

pub(super) const AARCH64: Cross = Cross {
    arch: "aarch64",
    packages: ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"],
};

pub(super) const X86_64: Cross = Cross {
    arch: "x86_64",
    packages: ["gcc-x86-64-linux-gnu", "libc6-dev-amd64-cross"],
};

impl Cross {
    /// The target of both programs.
    pub(super) fn target(&self) -> String {
        format!("{}-unknown-linux-gnu", self.arch)
    }

    /// Links for it, and compiles C.
    pub(super) fn compiler(&self) -> String {
        format!("{}-linux-gnu-gcc", self.arch)
    }

    pub(super) fn ready(&self) -> Result<Option<String>> {
        let there = self.libraries()?.is_dir() && in_path(&self.compiler());
        Ok(there.then(|| format!("{}, {}", self.target(), self.compiler())))
    }

    pub(super) fn make(&self) -> Result<()> {
        if !self.libraries()?.is_dir() {
            eprintln!("  rustup target add {}", self.target());
            workspace::run(
                Command::new("rustup")
                    .args(["target", "add", &self.target()])
                    .current_dir(workspace::root()),
            )?;
        }
        if !in_path(&self.compiler()) {
            programs::add_packages(&self.packages, "")?;
        }
        Ok(())
    }

    fn libraries(&self) -> Result<PathBuf> {
        let target = self.target();
        let asked = ["--print", "target-libdir", "--target", &target];
        let folder = workspace::output(workspace::rustc().args(asked))?;
        Ok(Path::new(folder.trim()).to_owned())
    }
}
