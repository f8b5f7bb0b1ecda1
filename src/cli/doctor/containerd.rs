//! Whether containerd uses the daemon: what it says of its plugins, and what its configuration says of everything else.

use std::path::Path;

use super::Row;
use super::files::{Files, SettingMatch, Value};
use crate::proto::introspection::Plugin;
use crate::serve::registration::{DIFFER, REMAP_IDS, SNAPSHOTTER, Version};

/// Plugins that containerd makes of `[proxy_plugins]`: type, identifier.
pub(super) const PLUGINS: [(&str, &str); 2] =
    [("io.containerd.snapshotter.v1", SNAPSHOTTER), ("io.containerd.differ.v1", DIFFER)];
/// The differ that takes every layer, and that layers of others go on to.
const WALKING: &str = "walking";
/// What to do where containerd's configuration does not have what is printed.
const PRINTED: &str =
    "have containerd's configuration import what erolith serve --print-containerd-config prints";

/// What containerd answered.
#[derive(Debug)]
pub(super) struct Answer {
    /// Its version, as text.
    pub(super) version: String,
    pub(super) plugins: Vec<Plugin>,
}

impl Answer {
    fn has(&self, kind: &str, id: &str) -> Option<&Plugin> {
        self.plugins.iter().find(|plugin| plugin.r#type == kind && plugin.id == id)
    }
}

/// What is compared.
pub(super) struct Facts<'f> {
    /// containerd's file.
    pub(super) path: &'f Path,
    pub(super) files: &'f Files,
    /// Nothing when containerd does not answer: then its version is guessed from that of the file.
    pub(super) answer: Option<&'f Answer>,
    /// The daemon's socket.
    pub(super) address: &'f Path,
}

impl Facts<'_> {
    /// Everything that is said of containerd's configuration.
    pub(super) fn rows(&self) -> Vec<Row> {
        let mut rows = vec![self.configuration()];
        rows.extend(PLUGINS.map(|(kind, id)| self.plugin(kind, id)));
        rows.extend([self.capabilities(), self.differs(), self.unpack(), self.cri()]);
        rows
    }

    fn version(&self) -> Version {
        let said = self.answer.and_then(|answer| Version::of(&answer.version));
        // 2.x reads files of version 2, too, and then has a table that 1.7 does not know.
        let is_new = || {
            let images = ["plugins", "io.containerd.cri.v1.images"];
            self.files.get(Version::V2_1, &images).is_some()
        };
        said.unwrap_or_else(|| match self.files.version() {
            ..=2 if !is_new() => Version::V1_7,
            ..=3 => Version::V2_1,
            _ => Version::V2_3,
        })
    }

    fn get(&self, keys: &[&str]) -> Option<SettingMatch<'_>> {
        self.files.get(self.version(), keys)
    }

    fn configuration(&self) -> Row {
        const NAME: &str = "containerd-config";
        let path = self.path.display();
        if !self.path.exists() {
            let evidence = format!("{path} is not there: containerd has nothing but its defaults");
            let advice =
                "make it, with a version and the line imports; or name it: --containerd-config";
            return Row::found(NAME, false, evidence, advice).required();
        }
        let evidence = match (self.files.mistakes.as_slice(), self.files.len()) {
            ([], 1) => format!("{path}, which imports no file"),
            ([], files) => format!("{path} and {} that it imports", files.saturating_sub(1)),
            (mistakes, _) => mistakes.join("; "),
        };
        let advice = "mend it, and restart containerd";
        Row::found(NAME, self.files.mistakes.is_empty(), evidence, advice).required()
    }

    /// Whether containerd has one of our plugins, under its name and at the daemon's socket.
    fn plugin(&self, kind: &str, id: &str) -> Row {
        let name = if id == SNAPSHOTTER { "snapshotter-plugin" } else { "differ-plugin" };
        let declared = self.get(&["proxy_plugins", id, "address"]);
        let address = Value::Text(self.address.display().to_string());
        let elsewhere = declared.as_ref().filter(|found| *found.value != address);
        if let Some(SettingMatch { place, value: Value::Text(other), .. }) = elsewhere {
            let evidence =
                format!("{place}: {other}, and the daemon serves {}", self.address.display());
            let advice = "give both the same socket, and restart containerd";
            return Row::found(name, false, evidence, advice).required();
        }
        let Some(answer) = self.answer else {
            return Row::untried(name, "containerd does not answer").required();
        };
        let (ok, evidence, advice) = match (answer.has(kind, id), declared) {
            (Some(Plugin { init_err: Some(error), .. }), _) => {
                (false, error.message.clone(), PRINTED)
            }
            (Some(_), _) => (true, id.to_owned(), PRINTED),
            (None, Some(SettingMatch { place, .. })) => {
                let evidence = format!("declared in {place}, and containerd does not have it");
                (false, evidence, "restart containerd: systemctl restart containerd")
            }
            (None, None) => {
                (false, format!("containerd has no {kind} called {id}{}", self.unread()), PRINTED)
            }
        };
        Row::found(name, ok, evidence, advice).required()
    }

    /// The usual place of what is printed, when it is there and not read.
    fn unread(&self) -> String {
        let dropin = self.path.parent().unwrap_or(Path::new("/")).join("conf.d/erolith.toml");
        if self.files.has(&dropin) || !dropin.exists() {
            return String::new();
        }
        format!("; {} is there, and {} does not import it", dropin.display(), self.path.display())
    }

    /// Pods in user namespaces: without the capability, containerd copies every image once for each map.
    fn capabilities(&self) -> Row {
        const NAME: &str = "capabilities";
        let (kind, id) = PLUGINS[0];
        let Some(plugin) = self.answer.and_then(|answer| answer.has(kind, id)) else {
            return Row::untried(NAME, "containerd has no plugin to ask for");
        };
        let has = |list: &[String]| list.iter().any(|capability| capability == REMAP_IDS);
        let declared = self.get(&["proxy_plugins", id, "capabilities"]);
        let declared =
            declared.filter(|found| matches!(found.value, Value::Texts(list) if has(list)));
        match (has(&plugin.capabilities), declared) {
            (true, _) => Row::found(NAME, true, plugin.capabilities.join(" "), ""),
            (false, Some(SettingMatch { place, .. })) => {
                let evidence =
                    format!("{REMAP_IDS} is declared in {place}, and containerd does not know it");
                let advice = "restart containerd; it needs 1.7.23, and before copies images for each user namespace";
                Row::found(NAME, false, evidence, advice)
            }
            (false, None) => {
                let evidence =
                    format!("{REMAP_IDS} is missing: images are copied for each user namespace");
                Row::found(NAME, false, evidence, PRINTED).required()
            }
        }
    }

    /// Layers are applied by the first differ that takes them, and the walking differ takes all.
    fn differs(&self) -> Row {
        const NAME: &str = "differ-order";
        let found = self.get(&["plugins", "io.containerd.service.v1.diff-service", "default"]);
        let Some(SettingMatch { value: Value::Texts(order), place, .. }) = found else {
            let evidence = format!("not set, so that {WALKING} takes all layers");
            return Row::found(NAME, false, evidence, PRINTED).required();
        };
        let at = |name: &str| order.iter().position(|differ| differ == name);
        let ok = match (at(DIFFER), at(WALKING)) {
            (Some(ours), Some(walking)) => ours < walking,
            (ours, None) => ours.is_some(),
            (None, Some(_)) => false,
        };
        let advice = "name erolith-diff before walking";
        Row::found(NAME, ok, format!("{place}: {}", order.join(", ")), advice).required()
    }

    /// containerd's transfer service, which pulls images for `ctr` and CRI, follows `unpack_config` for each snapshotter.
    fn unpack(&self) -> Row {
        const NAME: &str = "unpack-config";
        const PLUGIN: [&str; 3] = ["plugins", "io.containerd.transfer.v1.local", "unpack_config"];
        let entry = |index: usize, key: &str| {
            let index = index.to_string();
            let [plugins, transfer, unpack] = PLUGIN;
            let found = self.get(&[plugins, transfer, unpack, &index, key])?;
            match found.value {
                Value::Text(text) => Some((text.clone(), found.place)),
                _ => None,
            }
        };
        let ours = (0..)
            .map_while(|index| Some((entry(index, "snapshotter")?, entry(index, "differ"))))
            .find(|((snapshotter, _), _)| snapshotter == SNAPSHOTTER);
        let (ok, evidence) = match ours {
            Some((_, Some((differ, place)))) if differ == DIFFER => {
                (true, format!("{place}: {differ}"))
            }
            Some(((_, place), differ)) => {
                let differ = differ.map_or("none".to_owned(), |(differ, _)| differ);
                (false, format!("{place}: unpacked by {differ}, not by {DIFFER}"))
            }
            None => (false, format!("no entry for {SNAPSHOTTER}: its images cannot be pulled")),
        };
        Row::found(NAME, ok, evidence, PRINTED).required()
    }

    /// Kubernetes' pods.
    fn cri(&self) -> Row {
        const NAME: &str = "cri-snapshotter";
        let served =
            self.answer.is_none_or(|answer| answer.has("io.containerd.grpc.v1", "cri").is_some());
        if !served {
            return Row::untried(NAME, "containerd does not serve Kubernetes (CRI)");
        }
        let found = self.files.cri_snapshotter(self.version());
        let (ok, evidence) = match found {
            Some(SettingMatch { value: Value::Text(snapshotter), place, .. }) => {
                (snapshotter == SNAPSHOTTER, format!("{place}: {snapshotter}"))
            }
            _ => (false, "not set: pods run on containerd's default, overlayfs".to_owned()),
        };
        match self.files.runtime_class(SNAPSHOTTER) {
            Some((class, place)) if !ok => {
                Row::found(NAME, true, format!("{place}: pods of the runtime class {class}"), "")
            }
            _ => Row::found(NAME, ok, evidence, self.cri_advice()).required(),
        }
    }

    fn cri_advice(&self) -> &'static str {
        match self.version() {
            Version::V1_7 => {
                "set snapshotter = \"erolith\" below [plugins.\"io.containerd.grpc.v1.cri\".containerd] in containerd's \
                 own file, which 1.7 cannot import"
            }
            Version::V2_1 | Version::V2_3 => {
                "set snapshotter = \"erolith\" there; nothing is set below [plugins.\"io.containerd.cri.v1.images\"] when \
                 the printed text is not imported"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::tests::write;
    use crate::proto::introspection::InitError;
    use crate::serve::config::Config;
    use crate::serve::registration;

    const IMPORTS: &str = "imports = ['conf.d/*.toml']\n";

    fn plugin(kind: &str, id: &str) -> Plugin {
        Plugin { r#type: kind.into(), id: id.into(), ..Plugin::default() }
    }

    /// As of a containerd that has read everything.
    fn answer(version: &str) -> Answer {
        let mut plugins: Vec<_> = PLUGINS.iter().map(|(kind, id)| plugin(kind, id)).collect();
        plugins[0].capabilities = vec!["rebase".into(), REMAP_IDS.into()];
        plugins.push(plugin("io.containerd.grpc.v1", "cri"));
        Answer { version: version.into(), plugins }
    }

    /// The rows that are not as they should be, with what they say.
    fn wrong(root: &str, dropin: &str, answer: Option<&Answer>) -> Vec<(&'static str, String)> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        write(&path, root);
        std::fs::create_dir(dir.path().join("conf.d")).unwrap();
        write(&dir.path().join("conf.d/erolith.toml"), dropin);
        let files = Files::read(&path);
        let address = Config::default().address;
        let facts = Facts { path: &path, files: &files, answer, address: &address };
        let rows = facts.rows().into_iter().filter(|row| row.state != "ok");
        let place = dir.path().display().to_string();
        rows.map(|row| (row.name, row.evidence.replace(&format!("{place}/"), ""))).collect()
    }

    fn printed(version: Version) -> String {
        registration::text(version, &Config::default(), "linux/amd64")
    }

    #[test]
    fn what_is_printed_is_ready_where_it_is_imported() {
        let cri = "[plugins.'io.containerd.grpc.v1.cri'.containerd]\nsnapshotter = 'erolith'\n";
        for (containerd, version, root) in [
            ("1.7.24~ds1", Version::V1_7, format!("version = 2\n{IMPORTS}{cri}")),
            ("2.1.9+unknown", Version::V2_1, format!("version = 3\n{IMPORTS}")),
            ("2.1.9+unknown", Version::V2_1, format!("version = 2\n{IMPORTS}")),
            ("v2.3.4", Version::V2_3, format!("version = 4\n{IMPORTS}")),
        ] {
            assert_eq!(
                wrong(&root, &printed(version), Some(&answer(containerd))),
                [],
                "{containerd}"
            );
        }
    }

    #[test]
    fn what_does_not_use_us_is_named_with_its_place() {
        let printed = printed(Version::V2_1);
        let root = format!("version = 3\n{IMPORTS}");
        let answer = answer("2.1.9");
        let names = |root: &str, dropin: &str| -> Vec<_> {
            wrong(root, dropin, Some(&answer)).into_iter().map(|(name, _)| name).collect()
        };
        let first = |root: &str, dropin: &str| wrong(root, dropin, Some(&answer)).remove(0).1;
        // Not imported: the running containerd has plugins of an earlier configuration.
        assert_eq!(
            names("version = 3\n", &printed),
            ["differ-order", "unpack-config", "cri-snapshotter"]
        );
        let order =
            printed.replace("\"erolith-diff\", \"walking\"", "\"walking\", \"erolith-diff\"");
        assert_eq!(names(&root, &order), ["differ-order"]);
        assert!(first(&root, &order).ends_with(": walking, erolith-diff"));
        let differ =
            printed.replacen("    differ = \"erolith-diff\"", "    differ = \"walking\"", 1);
        assert_eq!(names(&root, &differ), ["unpack-config"]);
        let cri =
            printed.replace("  snapshotter = \"erolith\"\n", "  snapshotter = \"overlayfs\"\n");
        assert!(names(&root, &cri).contains(&"cri-snapshotter"));
        let old = "[plugins.'io.containerd.grpc.v1.cri'.containerd]\nsnapshotter = 'overlayfs'\n";
        let old = format!("version = 2\n{IMPORTS}{old}");
        assert_eq!(names(&old, &printed), ["cri-snapshotter"]);
        assert_eq!(first(&old, &printed), "config.toml:4: overlayfs");
        let class = "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.mine]\nsnapshotter = 'erolith'\n";
        assert_eq!(
            names(&format!("{root}{class}"), &cri.replace("unpack", "no")),
            ["unpack-config"]
        );
        let twice = format!("{root}{printed}{printed}");
        assert!(names(&twice, "").contains(&"containerd-config"));
        let socket = printed.replace("/run/erolith/erolith.sock", "/run/other.sock");
        assert_eq!(names(&root, &socket), ["snapshotter-plugin", "differ-plugin"]);
    }

    #[test]
    fn plugins_count_with_their_type_and_without_errors() {
        let root = format!("version = 3\n{IMPORTS}");
        let printed = printed(Version::V2_1);
        let with = |change: &dyn Fn(&mut Answer)| {
            let mut answer = answer("2.1.9");
            change(&mut answer);
            wrong(&root, &printed, Some(&answer))
        };
        let said = with(&|answer| drop(answer.plugins.remove(0)));
        assert_eq!(
            said.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
            ["snapshotter-plugin", "capabilities"]
        );
        assert!(said[0].1.ends_with(", and containerd does not have it"), "{said:?}");
        let said = with(&|answer| answer.plugins[1].r#type = "io.containerd.snapshotter.v1".into());
        assert_eq!(said[0].0, "differ-plugin");
        let error = InitError { code: 1, message: "dial".into() };
        let said = with(&|answer| answer.plugins[0].init_err = Some(error.clone()));
        assert_eq!(said[0], ("snapshotter-plugin", "dial".to_owned()));
        let said = with(&|answer| answer.plugins[0].capabilities.clear());
        assert_eq!(said.len(), 1);
        assert!(said[0].1.contains("containerd does not know it"), "{said:?}");
        let said = with(&|answer| drop(answer.plugins.pop()));
        assert_eq!(
            said,
            [("cri-snapshotter", "containerd does not serve Kubernetes (CRI)".to_owned())]
        );
        // Not there: what the files say is still compared.
        let said = wrong(&root, &printed, None);
        assert_eq!(
            said.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
            ["snapshotter-plugin", "differ-plugin", "capabilities"]
        );
    }
}
