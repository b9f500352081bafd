//! PURE: what a container is given with a device, of the map `give`.

use super::{fields::Fields, reader::At, words};
use crate::device::{
    plan::{Give, Groups, MountRule, NodeRule, Pattern, Permissions, Serve},
    template::Template,
};
use std::collections::{BTreeMap, BTreeSet};

/// Most entries of each list and map.
const MOST: usize = 64;

/// Folders of the node that no container gets whole with a device.
const OF_THE_NODE: [&str; 13] = [
    "/boot",
    "/dev",
    "/etc",
    "/home",
    "/proc",
    "/root",
    "/run",
    "/sys",
    "/usr",
    "/var",
    "/var/lib",
    "/var/lib/kubelet",
    "/var/run",
];
/// Folders of a container that its image or its runtime fills.
const OF_THE_CONTAINER: [&str; 13] = [
    "/bin", "/dev", "/etc", "/home", "/lib", "/lib64", "/proc", "/root", "/run", "/sbin", "/sys",
    "/usr", "/var",
];

const READ_WRITE: Permissions = Permissions {
    read: true,
    write: true,
    mknod: false,
};

/// What the rest of the resource says that matters here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context {
    pub(super) serve: Serve,
    /// Whether all its devices are found by CDI.
    pub(super) is_of_cdi: bool,
}

/// What is given where nothing is written.
pub(super) fn default(context: Context) -> Give {
    let write_cdi = context.serve == Serve::Dra;
    Give {
        own: default_own(context),
        nodes: Vec::new(),
        permissions: READ_WRITE,
        environment: BTreeMap::new(),
        mounts: Vec::new(),
        annotations: BTreeMap::new(),
        cdi: default_cdi(context),
        write_cdi,
        groups: default_groups(write_cdi),
    }
}

fn default_own(context: Context) -> Vec<Pattern> {
    match context.is_of_cdi {
        true => none(),
        false => Vec::new(),
    }
}

/// Like no file.
fn none() -> Vec<Pattern> {
    vec![Pattern(String::new())]
}

fn default_cdi(context: Context) -> Vec<Template> {
    let own = context.is_of_cdi.then(|| Template::parse("{cdi}").ok());
    own.flatten().into_iter().collect()
}

fn default_groups(write_cdi: bool) -> Groups {
    match write_cdi {
        true => Groups::OfFiles,
        false => Groups::These(Vec::new()),
    }
}

pub(super) fn give(at: &At<'_>, context: Context) -> Option<Give> {
    let fields = at.fields(&[
        "own",
        "nodes",
        "permissions",
        "environment",
        "mounts",
        "annotations",
        "cdi",
        "writeCdi",
        "groups",
    ])?;
    let own = fields.or("own", default_own(context), |at| {
        let own = each(&at, "[dri/renderD*]", own)?;
        Some(if own.is_empty() { none() } else { own })
    });
    let nodes = fields.or("nodes", Vec::new(), |at| {
        let nodes = each(&at, "[/dev/vfio/vfio]", node)?;
        distinct(
            &at,
            nodes
                .iter()
                .map(|node| node.within.as_ref().unwrap_or(&node.path)),
        )?;
        Some(nodes)
    });
    let permissions = permissions(&fields);
    let environment = fields.or("environment", BTreeMap::new(), |at| {
        named(&at, "{DEVICE: \"{path}\"}", indexed)
    });
    let mounts = fields.or("mounts", Vec::new(), |at| {
        let mounts = each(&at, "[{host: /opt/x, container: /opt/x}]", mount)?;
        distinct(&at, mounts.iter().map(|mount| &mount.container))?;
        Some(mounts)
    });
    let annotations = fields.or("annotations", BTreeMap::new(), |at| {
        if context.serve == Serve::Dra {
            at.fault("can't be given by `serve: dra`, which has no annotations; remove them, or write `serve: devicePlugin`");
            return None;
        }
        named(&at, "{example.com/port: \"{usb}\"}", words::annotation)
    });
    let cdi = fields.or("cdi", default_cdi(context), |at| {
        each(&at, "[\"vendor.com/gpu={id}\"]", cdi)
    });
    let write_cdi = fields.or("writeCdi", context.serve == Serve::Dra, |at| at.boolean());
    if write_cdi == Some(false)
        && context.serve == Serve::Dra
        && let Some(at) = fields.get("writeCdi")
    {
        at.fault("must be true with `serve: dra`, which gives by CDI alone; remove it");
        return None;
    }
    let written = write_cdi.unwrap_or_default();
    let groups = fields.or("groups", default_groups(written), |at| {
        if write_cdi == Some(false) {
            at.fault("are given by a CDI specification alone; write also `writeCdi: true`, or remove them");
            return None;
        }
        groups(&at)
    });
    if written
        && context.serve == Serve::DevicePlugin
        && own.as_ref().is_some_and(|own| *own == none())
        && !matches!(&groups, Some(Groups::These(some)) if !some.is_empty())
        && let Some(at) = fields.get("writeCdi")
    {
        at.fault("has nothing to give, for none of a device's own files are given; remove it, or write the files into `own`, or numbers into `groups`");
        return None;
    }
    Some(Give {
        own: own?,
        nodes: nodes?,
        permissions: permissions?,
        environment: environment?,
        mounts: mounts?,
        annotations: annotations?,
        cdi: cdi?,
        write_cdi: write_cdi?,
        groups: groups?,
    })
    .filter(|_| !fields.has_unknown)
}

/// Of a list, as `read` reads each; all of them are read, so that all faults are told.
pub(super) fn each<'a, T>(
    at: &At<'a>,
    example: &str,
    read: impl Fn(&At<'a>) -> Option<T>,
) -> Option<Vec<T>> {
    let items = at.list(MOST, example)?;
    let read: Vec<Option<T>> = items.iter().map(read).collect();
    read.into_iter().collect()
}

fn named(
    at: &At<'_>,
    example: &str,
    check: fn(&str) -> Result<(), String>,
) -> Option<BTreeMap<String, Template>> {
    let entries = at.entries(MOST, example)?;
    let read = entries.into_iter().map(|(name, at)| {
        let known = at.sound(check(name));
        let template = at.template()?;
        known.map(|()| (name.to_owned(), template))
    });
    read.collect::<Vec<_>>().into_iter().collect()
}

/// The name of a variable, with a place for the number of the device at most.
fn indexed(name: &str) -> Result<(), String> {
    if name.matches("{index}").count() > 1 {
        return Err(format!("{name:?} has {{index}} twice; write it once"));
    }
    words::variable(&name.replace("{index}", "0"))
}

/// Refuses two things at one place of a container.
fn distinct<'a>(at: &At<'_>, places: impl Iterator<Item = &'a Template>) -> Option<()> {
    let mut seen = BTreeSet::new();
    for place in places {
        if !seen.insert(place) {
            at.fault(format!("puts two things at {place}; remove one of them"));
            return None;
        }
    }
    Some(())
}

fn permissions(fields: &Fields<'_>) -> Option<Permissions> {
    fields.or("permissions", READ_WRITE, |at| {
        let text = at.text(words::LONGEST_NAME)?;
        at.sound(words::permissions(text))
    })
}

fn own(at: &At<'_>) -> Option<Pattern> {
    let text = at.text(words::LONGEST_TEXT)?;
    if let Some(short) = text.strip_prefix("/dev/") {
        at.fault(format!("{text:?} is matched below /dev; write {short:?}"));
        return None;
    }
    if text.starts_with('/') || text.split('/').any(|part| part == "..") {
        at.fault(format!(
            "{text:?} leads out of /dev; write the path below it, like \"dri/renderD*\""
        ));
        return None;
    }
    at.sound(words::pattern(text))
}

/// A path that is filled for each device, and its shape.
fn path(at: &At<'_>, check: fn(&str) -> Result<(), String>) -> Option<Template> {
    at.text(words::LONGEST_TEXT)?;
    let template = at.template()?;
    let sample = template.sample();
    if sample.contains(['*', '?']) {
        at.fault(format!("{template} is one path, not a pattern; write it whole, with fields like {{name}} for what differs"));
        return None;
    }
    refuse_random(at, &template)?;
    // A name of several parts from the device itself is no part of a path.
    if template.asks_for("cdi") {
        at.fault("asks for {cdi}, which is no part of a path; write {name} or {id}");
        return None;
    }
    at.sound(check(&sample))?;
    Some(template)
}

fn refuse_random(at: &At<'_>, template: &Template) -> Option<()> {
    if template.asks_for("random") {
        at.fault("asks for {random}, which is another one each time; write {id}");
        return None;
    }
    Some(())
}

fn node(at: &At<'_>) -> Option<NodeRule> {
    let of = |path| NodeRule {
        path,
        within: None,
        permissions: READ_WRITE,
        optional: false,
    };
    if at.as_text().is_some() {
        return path(at, words::below_dev).map(of);
    }
    let fields = at.fields(&["path", "within", "permissions", "optional"])?;
    let on_node = fields.must(
        "path",
        "write the file on the node, like /dev/vfio/vfio",
        |at| path(&at, words::below_dev),
    );
    let within = fields.maybe("within", |at| {
        let template = path(&at, words::absolute)?;
        is_free(&at, &template, &OF_THE_CONTAINER)?;
        Some(template)
    });
    let permissions = permissions(&fields);
    let optional = fields.or("optional", false, |at| at.boolean());
    (!fields.has_unknown).then_some(())?;
    Some(NodeRule {
        within: within?,
        permissions: permissions?,
        optional: optional?,
        ..of(on_node?)
    })
}

fn mount(at: &At<'_>) -> Option<MountRule> {
    let fields = at.fields(&["host", "container", "readOnly", "optional"])?;
    let host = fields.must("host", "write the path on the node", |at| {
        let template = path(&at, words::absolute)?;
        is_free(&at, &template, &OF_THE_NODE)?;
        Some(template)
    });
    let container = fields.must("container", "write the path in the container", |at| {
        let template = path(&at, words::absolute)?;
        is_free(&at, &template, &OF_THE_CONTAINER)?;
        Some(template)
    });
    let readonly = fields.or("readOnly", true, |at| at.boolean());
    let optional = fields.or("optional", false, |at| at.boolean());
    (!fields.has_unknown).then_some(())?;
    Some(MountRule {
        host: host?,
        container: container?,
        readonly: readonly?,
        optional: optional?,
    })
}

fn is_free(at: &At<'_>, template: &Template, taken: &[&str]) -> Option<()> {
    if taken.contains(&template.sample().as_str()) {
        at.fault(format!("{template} is a folder of the system; write the folder or file below it that the device needs"));
        return None;
    }
    Some(())
}

fn cdi(at: &At<'_>) -> Option<Template> {
    at.text(words::LONGEST_TEXT)?;
    let template = at.template()?;
    refuse_random(at, &template)?;
    at.sound(words::cdi_name(&template.sample()))?;
    Some(template)
}

fn groups(at: &At<'_>) -> Option<Groups> {
    if !at.is_list() {
        let of_files = at.one_of(&[("files", ())]);
        return of_files.map(|()| Groups::OfFiles);
    }
    let numbers = each(at, "[44, 109]", |at| at.number(1..=u32::MAX - 1))?;
    if numbers.iter().collect::<BTreeSet<_>>().len() < numbers.len() {
        at.fault("has a group twice; remove one of them");
        return None;
    }
    Some(Groups::These(numbers))
}
