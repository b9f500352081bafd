//! Scenarios with names: all are tried, one that does not hold keeps no other from it.

use super::super::place::Cluster;
use anyhow::{Result, ensure};
use std::time::Instant;

/// Its name, and what answers with what was seen.
pub(super) type Scenario = (&'static str, fn(&Cluster) -> Result<String>);

/// All of them, or those with these words in their name; after each `clear`, so that the next one finds every device free.
///
/// # Errors
/// What does not hold, and what does; or that no scenario has such a name.
pub(super) fn run(
    cluster: &Cluster,
    all: &[Scenario],
    words: Option<&str>,
    clear: fn(&Cluster) -> Result<()>,
) -> Result<Vec<String>> {
    let mut seen = Vec::new();
    let mut failed = Vec::new();
    let wanted = all
        .iter()
        .filter(|(name, _)| words.is_none_or(|words| name.contains(words)));
    for (name, scenario) in wanted {
        let start = Instant::now();
        let done = scenario(cluster);
        let seconds = start.elapsed().as_secs_f64();
        match done {
            Ok(said) => seen.push(format!("{name} ({seconds:.1} s): {said}")),
            Err(error) => failed.push(format!("{name} ({seconds:.1} s): {error:#}")),
        }
        clear(cluster)?;
    }
    ensure!(
        failed.is_empty(),
        "{} of {} scenarios do not hold:\n        {}\nthese do:\n        {}",
        failed.len(),
        failed.len() + seen.len(),
        failed.join("\n        "),
        seen.join("\n        ")
    );
    ensure!(!seen.is_empty(), "no scenario has such a name");
    seen.insert(0, format!("{} scenarios", seen.len()));
    Ok(seen)
}
