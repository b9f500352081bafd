//! The watched folder: sequences of changes as people and tools make them, awaited by revision.
#![expect(clippy::unwrap_used, reason = "a test's helper may panic")]

use cni_agent::{
    source::{Severity, Source, SourceProblem, manifests::Manifests},
    state::Cluster,
};
use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::symlink,
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::{sync::watch, time::timeout};

struct Bench {
    folder: tempfile::TempDir,
    last_good: tempfile::TempDir,
    source: Manifests,
    cluster: watch::Receiver<Arc<Cluster>>,
    problems: watch::Receiver<Arc<Vec<SourceProblem>>>,
}

fn bench(prepare: impl FnOnce(&Path)) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    let last_good = tempfile::tempdir().unwrap();
    let source = Manifests::watch(folder.path(), last_good.path()).unwrap();
    let (cluster, problems) = (source.subscribe(), source.subscribe_problems());
    Bench {
        folder,
        last_good,
        source,
        cluster,
        problems,
    }
}

impl Bench {
    /// Another agent, after something happened to the folder in between.
    fn restarted(self, meanwhile: impl FnOnce(&Path)) -> Self {
        let Self {
            folder, last_good, ..
        } = self;
        meanwhile(folder.path());
        let source = Manifests::watch(folder.path(), last_good.path()).unwrap();
        let (cluster, problems) = (source.subscribe(), source.subscribe_problems());
        Self {
            folder,
            last_good,
            source,
            cluster,
            problems,
        }
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.folder.path().join(file), text).unwrap();
    }

    fn replace(&self, file: &str, text: &str) {
        let temporary = self.folder.path().join(".temporary");
        fs::write(&temporary, text).unwrap();
        fs::rename(temporary, self.folder.path().join(file)).unwrap();
    }

    fn remove(&self, file: &str) {
        fs::remove_file(self.folder.path().join(file)).unwrap();
    }

    /// Waits for a cluster of just these nodes (name, last part of the podCIDR).
    async fn nodes(&mut self, expected: &[(&str, u8)]) {
        let wanted: Vec<_> = expected
            .iter()
            .map(|(n, c)| (n.to_string(), cidr(*c)))
            .collect();
        let seen = timeout(
            Duration::from_secs(20),
            self.cluster.wait_for(|c| shown(c) == wanted),
        );
        if seen.await.is_err() {
            panic!("{:?} instead of {wanted:?}", shown(&self.cluster.borrow()));
        }
    }

    /// Waits until the errors are just as many as parts are given, each with its part.
    async fn errors(&mut self, parts: &[&str]) {
        let fits = |problems: &Arc<Vec<SourceProblem>>| {
            let errors = problems.iter().filter(|p| p.severity == Severity::Error);
            let errors: Vec<_> = errors.map(ToString::to_string).collect();
            errors.len() == parts.len() && errors.iter().zip(parts).all(|(e, p)| e.contains(p))
        };
        if timeout(Duration::from_secs(20), self.problems.wait_for(fits))
            .await
            .is_err()
        {
            panic!("{:?} instead of {parts:?}", self.source.problems());
        }
    }
}

fn shown(cluster: &Cluster) -> Vec<(String, String)> {
    (cluster.nodes.values())
        .map(|n| (n.name.clone(), n.pod_cidrs[0].to_string()))
        .collect()
}

fn cidr(number: u8) -> String {
    format!("100.11.{number}.0/24")
}

fn node(name: &str, number: u8) -> String {
    let cidr = cidr(number);
    format!(
        "---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\nspec: {{podCIDRs: ['{cidr}']}}\n"
    )
}

#[tokio::test]
async fn what_is_there_at_the_start_is_the_first_revision() {
    let bench = bench(|folder| {
        fs::write(folder.join("nodes.yaml"), node("n1", 1) + &node("n2", 2)).unwrap();
        fs::write(folder.join("README.md"), "not a manifest").unwrap();
        fs::write(folder.join(".hidden.yaml"), "[").unwrap();
    });
    let cluster = bench.cluster.borrow().clone();
    assert_eq!((cluster.revision, cluster.nodes.len()), (1, 2));
    assert_eq!(bench.source.problems(), []);
}

#[tokio::test]
async fn a_missing_folder_is_a_clear_error() {
    let missing = Path::new("/nonexistent/manifests");
    let error = Manifests::watch(missing, Path::new("/nonexistent/copies"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("/nonexistent/manifests") && error.contains("--manifests"),
        "{error}"
    );
}

#[tokio::test]
async fn files_come_change_and_go() {
    let mut bench = bench(|_| {});
    bench.nodes(&[]).await;
    bench.write("a.yaml", &node("n1", 1));
    bench.nodes(&[("n1", 1)]).await;
    bench.replace("b.yml", &node("n2", 2));
    bench.nodes(&[("n1", 1), ("n2", 2)]).await;
    bench.replace("a.yaml", &node("n1", 7));
    bench.nodes(&[("n1", 7), ("n2", 2)]).await;
    bench.write("c.json", r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"n3"},"spec":{"podCIDR":"100.11.3.0/24"}}"#);
    bench.nodes(&[("n1", 7), ("n2", 2), ("n3", 3)]).await;
    bench.remove("a.yaml");
    bench.nodes(&[("n2", 2), ("n3", 3)]).await;
    fs::rename(
        bench.folder.path().join("b.yml"),
        bench.folder.path().join("b.txt"),
    )
    .unwrap();
    bench.nodes(&[("n3", 3)]).await;
    let revision = bench.cluster.borrow().revision;
    assert_eq!(revision, 7, "one for each change");
}

#[tokio::test]
async fn a_broken_file_never_removes_what_worked() {
    let mut bench = bench(|folder| {
        fs::write(folder.join("a.yaml"), node("n1", 1) + &node("n2", 2)).unwrap();
    });
    // Broken text, a broken object beside a changed one, emptied: all as before.
    for (text, part) in [
        ("kind: [".to_owned(), "not valid YAML"),
        (
            node("n1", 5) + "---\nkind: Nod\napiVersion: v1\n",
            "document 2",
        ),
        (
            node("n1", 6) + &node("n2", 2).replace("100.11.2.0", "100.11.2.9"),
            "spec.podCIDRs[0]",
        ),
        (String::new(), "is empty"),
        ("x".repeat((4 << 20) + 1), "at most 4194304 are read"),
    ] {
        bench.write("a.yaml", &text);
        bench.errors(&[part]).await;
        assert!(
            bench.source.problems()[0]
                .to_string()
                .contains("last good content")
        );
        bench.nodes(&[("n1", 1), ("n2", 2)]).await;
    }
    bench.write("b.yaml", &node("n3", 3));
    bench.nodes(&[("n1", 1), ("n2", 2), ("n3", 3)]).await;
    bench.write("a.yaml", &node("n1", 8));
    bench.nodes(&[("n1", 8), ("n3", 3)]).await;
    bench.errors(&[]).await;
    bench.write("a.yaml", "kind: [");
    bench.errors(&["not valid YAML"]).await;
    bench.remove("a.yaml");
    bench.nodes(&[("n3", 3)]).await;
    bench.errors(&[]).await;
}

#[tokio::test]
async fn a_file_that_breaks_while_no_agent_runs_removes_nothing() {
    let mut bench = bench(|folder| {
        fs::write(folder.join("a.yaml"), node("n1", 1) + &node("n2", 2)).unwrap();
        fs::write(folder.join("b.yaml"), node("n3", 3)).unwrap();
    });
    bench.nodes(&[("n1", 1), ("n2", 2), ("n3", 3)]).await;
    for (text, part) in [
        (node("n1", 1) + "---\nkind: Nod\n", "document 2"),
        ("kind: [".to_owned(), "not valid YAML"),
    ] {
        bench = bench.restarted(|folder| {
            fs::write(folder.join("a.yaml"), text).unwrap();
            // Removed, not broken: that is meant.
            fs::remove_file(folder.join("b.yaml")).unwrap_or_default();
        });
        bench.nodes(&[("n1", 1), ("n2", 2)]).await;
        bench.errors(&[part]).await;
        let told = bench.source.problems()[0].to_string();
        assert!(told.contains("last good content"), "{told}");
    }
    // What was mended, then removed, has no copy that could come back.
    bench.write("a.yaml", &node("n1", 7));
    bench.nodes(&[("n1", 7)]).await;
    bench.remove("a.yaml");
    bench.nodes(&[]).await;
    bench = bench.restarted(|folder| fs::write(folder.join("a.yaml"), "kind: [").unwrap());
    bench.nodes(&[]).await;
    assert_eq!(fs::read_dir(bench.last_good.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_file_that_was_never_whole_gives_what_is_whole_in_it() {
    let mut bench = bench(|folder| {
        fs::write(folder.join("a.yaml"), node("n1", 1) + "---\nkind: Nod\n").unwrap();
    });
    bench.nodes(&[("n1", 1)]).await;
    bench.errors(&["only the rest of this file"]).await;
    // The next fault hides what was there, or changes it: nothing goes before the file is whole.
    bench.write("a.yaml", "kind: [");
    bench.errors(&["not valid YAML"]).await;
    bench.nodes(&[("n1", 1)]).await;
    bench.write("a.yaml", &(node("n2", 2) + "---\nkind: [\n"));
    bench.nodes(&[("n1", 1), ("n2", 2)]).await;
    bench.write("a.yaml", &(node("n1", 7) + "---\nkind: [\n"));
    bench.nodes(&[("n1", 7), ("n2", 2)]).await;
    bench.write("a.yaml", &node("n2", 2));
    bench.nodes(&[("n2", 2)]).await;
    bench.errors(&[]).await;
}

#[tokio::test]
async fn a_new_node_takes_no_podcidr_from_one_that_has_it() {
    let mut bench = bench(|_| {});
    bench.write("b.yaml", &node("n2", 2));
    bench.nodes(&[("n2", 2)]).await;
    bench.write("a.yaml", &(node("n1", 2) + &node("n3", 3)));
    bench
        .errors(&["n1 overlaps 100.11.2.0/24 of node n2"])
        .await;
    let kept = bench.cluster.borrow().clone();
    assert_eq!(kept.nodes["n2"].pod_cidrs[0].to_string(), cidr(2));
    assert!(kept.nodes["n1"].pod_cidrs.is_empty());
}

#[tokio::test]
async fn duplicates_change_hands_when_the_first_goes() {
    let mut bench = bench(|_| {});
    bench.write("b.yaml", &node("n1", 2));
    bench.nodes(&[("n1", 2)]).await;
    bench.write("a.yaml", &node("n1", 1));
    bench.nodes(&[("n1", 1)]).await;
    bench.errors(&["a.yaml, document 1"]).await;
    bench.remove("a.yaml");
    bench.nodes(&[("n1", 2)]).await;
    bench.errors(&[]).await;
}

/// As the kubelet updates a ConfigMap volume: a new folder, then `..data` replaced by a rename.
#[tokio::test]
async fn a_config_map_volume_is_followed() {
    let version = |folder: &Path, name: &str, text: &str| {
        let target = folder.join(name);
        fs::create_dir(&target).unwrap();
        fs::write(target.join("nodes.yaml"), text).unwrap();
        symlink(name, folder.join("..data_tmp")).unwrap();
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    };
    let mut bench = bench(|folder| {
        version(folder, "..2026_1", &node("n1", 1));
        symlink("..data/nodes.yaml", folder.join("nodes.yaml")).unwrap();
    });
    bench.nodes(&[("n1", 1)]).await;
    for number in 2..5 {
        version(
            bench.folder.path(),
            &format!("..2026_{number}"),
            &node("n1", number),
        );
        fs::remove_dir_all(bench.folder.path().join(format!("..2026_{}", number - 1))).unwrap();
        bench.nodes(&[("n1", number)]).await;
    }
}

#[tokio::test]
async fn links_into_another_folder_are_followed() {
    let other = tempfile::tempdir().unwrap();
    let target = other.path().join("n1.yaml");
    fs::write(&target, node("n1", 1)).unwrap();
    let mut bench = bench(|folder| symlink(&target, folder.join("n1.yaml")).unwrap());
    bench.nodes(&[("n1", 1)]).await;
    fs::write(&target, node("n1", 2)).unwrap();
    bench.nodes(&[("n1", 2)]).await;
    fs::remove_file(&target).unwrap();
    bench.errors(&["is a link to nothing"]).await;
    bench.nodes(&[("n1", 2)]).await;
}

#[tokio::test]
async fn a_file_written_in_steps_and_a_busy_folder_are_read() {
    let mut bench = bench(|_| {});
    let mut file = File::create(bench.folder.path().join("a.yaml")).unwrap();
    for number in 1..=40 {
        file.write_all(node(&format!("n{number:02}"), number).as_bytes())
            .unwrap();
        bench.write("noise.txt", &number.to_string());
        tokio::task::yield_now().await;
    }
    drop(file);
    let seen = bench.cluster.wait_for(|cluster| cluster.nodes.len() == 40);
    timeout(Duration::from_secs(20), seen)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn what_is_no_regular_file_is_named_and_does_not_stop_the_agent() {
    let mut bench = bench(|folder| {
        fs::write(folder.join("a.yaml"), node("n1", 1)).unwrap();
        fs::create_dir(folder.join("folder.yaml")).unwrap();
        let fifo = folder.join("pipe.yaml");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
    });
    bench.nodes(&[("n1", 1)]).await;
    bench
        .errors(&[
            "folder.yaml: is not a regular file",
            "pipe.yaml: is not a regular file",
        ])
        .await;
}

#[tokio::test]
async fn more_files_than_are_read_are_told() {
    let mut bench = bench(|folder| {
        for n in 0..1003 {
            fs::write(folder.join(format!("{n:04}.yaml")), "# nothing\n").unwrap();
        }
        fs::write(folder.join("0000.yaml"), node("n1", 1)).unwrap();
        fs::write(folder.join("1002.yaml"), node("n2", 2)).unwrap();
    });
    bench.nodes(&[("n1", 1)]).await;
    bench.errors(&["holds 1003 manifests, 1000 are read"]).await;
}

#[tokio::test]
async fn a_folder_that_goes_away_keeps_everything_in_force() {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("manifests");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("a.yaml"), node("n1", 1)).unwrap();
    let source = Manifests::watch(&folder, &outer.path().join("copies")).unwrap();
    let mut problems = source.subscribe_problems();
    fs::rename(&folder, outer.path().join("elsewhere")).unwrap();
    // Moving a folder is no event in it; touching what was in it is.
    fs::write(outer.path().join("elsewhere/b.yaml"), node("n2", 2)).unwrap();
    let told = problems.wait_for(|p| p.iter().any(|p| p.message.contains("stays in force")));
    timeout(Duration::from_secs(20), told)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(source.subscribe().borrow().nodes.len(), 1);
}

#[tokio::test]
async fn the_channel_closes_with_the_source() {
    let bench = bench(|_| {});
    let mut cluster = bench.cluster;
    drop(bench.source);
    let ended = async { while cluster.changed().await.is_ok() {} };
    timeout(Duration::from_secs(20), ended).await.unwrap();
}

#[tokio::test]
async fn a_rule_is_found_in_its_file_at_its_line() {
    let policy = "kind: NetworkPolicy\napiVersion: networking.k8s.io/v1\nmetadata: {name: web, namespace: shop}\nspec:\n  podSelector: {}\n  ingress:\n  - from: []\n  -\n    ports: [{port: 80}]\n  egress: []\n";
    let of_cluster = r#"{"kind": "ClusterNetworkPolicy", "apiVersion": "policy.networking.k8s.io/v1alpha2", "metadata": {"name": "all"},
        "spec": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "egress": [
            {"action": "Accept", "to": [{"namespaces": {}}]},
            {"action": "Deny", "to": [{"networks": ["0.0.0.0/0"]}]}]}}"#;
    let bench = bench(|folder| {
        fs::write(folder.join("a.yaml"), node("n1", 1)).unwrap();
        fs::write(
            folder.join("b.yaml"),
            format!("{}---\n{policy}", node("n2", 2)),
        )
        .unwrap();
        fs::write(folder.join("c.json"), of_cluster).unwrap();
    });
    assert_eq!(bench.source.problems(), []);
    let text = fs::read_to_string(bench.folder.path().join("b.yaml")).unwrap();
    let line_of = |words: &str| 1 + text.lines().position(|line| line.contains(words)).unwrap();
    let place = |object: &str, rule: &str| {
        let place = bench.source.place(object, rule)?;
        Some(place.rsplit('/').next().unwrap().to_owned())
    };
    let at = |file: &str, line: usize| Some(format!("{file}:{line}"));
    let web = |rule| place("NetworkPolicy shop/web", rule);
    assert_eq!(web("spec.ingress[0]"), at("b.yaml", line_of("from: []")));
    assert_eq!(web("spec.ingress[1]"), at("b.yaml", line_of("port: 80")));
    assert_eq!(web("spec.ingress[2]"), None);
    assert_eq!(web(""), None, "it has no rule for this direction");
    let all = |rule| place("ClusterNetworkPolicy all", rule);
    assert_eq!(all("spec.egress[1]"), at("c.json", 4));
    assert_eq!(place("NetworkPolicy shop/none", "spec.ingress[0]"), None);
}
