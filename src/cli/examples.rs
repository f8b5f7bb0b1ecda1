//! Examples of each command, for `--help` and the manual pages.

use clap::Command;

/// An example: what it does, and the line to type.
type Example = (&'static str, &'static str);

/// Commands with their examples; a command below `snapshots` is named by its own name.
const EXAMPLES: &[(&str, &[Example])] = &[
    (
        "cache",
        &[
            (
                "Fill a directory of converted layers for the nodes of a cluster",
                "erolith cache fill /srv/layers oci:images:alpine",
            ),
            (
                "Give the layers of two archives hash trees for dm-verity",
                "erolith cache fill --dm-verity --json /srv/layers docker-archive:app.tar oci-archive:base.tar",
            ),
        ],
    ),
    ("cat", &[("Print a file of an image", "erolith cat layer.erofs /etc/os-release")]),
    (
        "commit",
        &[
            (
                "Make an image of a container's changes",
                "erolith commit -m 'with curl' -c 'CMD [\"curl\", \"--version\"]' web registry.example/web:curl",
            ),
            (
                "Make a layer of the upper directory of an overlay",
                "erolith commit --upper upper --lower base.erofs --output layer.tar.gz",
            ),
            (
                "Make an image in an OCI layout, without containerd",
                "erolith commit --upper upper --base oci:images:base oci:images:new",
            ),
        ],
    ),
    (
        "completions",
        &[(
            "Install the completions of bash",
            "erolith completions bash >/usr/share/bash-completion/completions/erolith",
        )],
    ),
    (
        "convert",
        &[
            (
                "Convert an image of an OCI layout; its layers can be mounted in place",
                "erolith convert oci:images:3-slim oci:images:3-slim-erofs",
            ),
            (
                "Convert the output of `docker save` for all platforms, with zstd",
                "erolith convert --all --layers zstd docker-archive:image.tar oci:images:latest",
            ),
            (
                "Make the layers verifiable block by block",
                "erolith convert --dm-verity oci-archive:image.tar oci-archive:erofs.tar:latest",
            ),
        ],
    ),
    (
        "diff",
        &[
            ("Compare two images", "erolith diff oci:images:old oci:images:new"),
            (
                "Show what a container has changed; `erolith snapshots ls` lists the keys",
                "erolith diff --stat --snapshot default/12/web",
            ),
        ],
    ),
    (
        "doctor",
        &[
            ("Check this kernel and a filesystem", "erolith doctor /var/lib"),
            (
                "Check the daemon and containerd of a node",
                "erolith doctor --config /etc/erolith/config.toml",
            ),
        ],
    ),
    (
        "export",
        &[
            ("Write an image as a tar archive", "erolith export -o rootfs.tar image.erofs"),
            (
                "Write a layer as OCI describes it, with .wh. files",
                "erolith export --oci -o layer.tar layer.erofs",
            ),
        ],
    ),
    (
        "extract",
        &[("Unpack one directory of an image", "erolith extract --path /etc image.erofs out")],
    ),
    (
        "fsck",
        &[
            ("Check the structure of an image", "erolith fsck layer.erofs"),
            ("Read and decode all content too", "erolith fsck --data layer.erofs"),
        ],
    ),
    (
        "inspect",
        &[
            ("Show layout, sizes and the largest files", "erolith inspect --top 5 layer.erofs"),
            ("Write a page with pictures", "erolith inspect --html layer.html layer.erofs"),
        ],
    ),
    ("ls", &[("List everything in an image", "erolith ls -lR layer.erofs")]),
    ("man", &[("Install the manual pages", "erolith man /usr/local/share/man/man1")]),
    (
        "mkfs",
        &[
            ("Make an image of a directory", "erolith mkfs image.erofs rootfs/"),
            (
                "Make an image of an OCI layer, with whiteouts for overlayfs",
                "erolith mkfs --tar --aufs layer.erofs layer.tar.gz",
            ),
            (
                "Make the same image on every day",
                "erolith mkfs -T 0 -U clear --all-root image.erofs rootfs/",
            ),
        ],
    ),
    (
        "mount",
        &[
            ("Mount an image", "erolith mount image.erofs /mnt"),
            (
                "Mount a converted image of an OCI layout",
                "erolith mount oci:images:3-slim-erofs /mnt",
            ),
        ],
    ),
    ("repair", &[("Show what a lost database would be rebuilt from", "erolith repair --dry-run")]),
    (
        "scrub",
        &[("Read every layer of a node and quarantine damaged ones", "erolith scrub --quarantine")],
    ),
    (
        "serve",
        &[
            (
                "Print the configuration that containerd 2.1 needs",
                "erolith serve --print-containerd-config=2.1",
            ),
            (
                "Run the daemon with metrics",
                "erolith serve --config /etc/erolith/config.toml --metrics-address 127.0.0.1:9464",
            ),
        ],
    ),
    (
        "snapshots",
        &[
            ("Show snapshots and their parents", "erolith snapshots tree"),
            ("Show what each takes on disk", "erolith snapshots usage"),
        ],
    ),
    ("stat", &[("Show a file and its extents", "erolith stat --extents layer.erofs /bin/sh")]),
    ("umount", &[("Unmount an image", "erolith umount /mnt")]),
];

/// The examples of the command of this name.
pub(super) fn of(name: &str) -> &'static [Example] {
    EXAMPLES.iter().find(|(command, _)| *command == name).map_or(&[], |(_, examples)| examples)
}

/// Appends its examples to the help of each subcommand.
pub(super) fn add_to(command: Command) -> Command {
    command.mut_subcommands(|command| match of(command.get_name()) {
        [] => command,
        examples => command.after_help(text(examples)),
    })
}

fn text(examples: &[Example]) -> String {
    let lines = examples.iter().map(|(what, line)| format!("  # {what}\n  {line}\n"));
    format!("Examples:\n{}", lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::super::Cli;

    #[test]
    fn every_command_has_examples_that_the_parser_takes() {
        let command = Cli::definition();
        for subcommand in command.get_subcommands().filter(|command| !command.is_hide_set()) {
            let name = subcommand.get_name();
            let examples = super::of(name);
            assert!(!examples.is_empty(), "{name} has no example");
            for (_, line) in examples {
                let typed = line.split_once(" >").map_or(*line, |(command, _)| command);
                let words = words(typed);
                assert_eq!(words.get(1).map(String::as_str), Some(name), "{line}");
                let parsed = command.clone().try_get_matches_from(&words);
                assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
            }
        }
        let named = super::EXAMPLES.iter().map(|(name, _)| name);
        named.for_each(|name| {
            assert!(command.find_subcommand(name).is_some(), "{name} is no command")
        });
    }

    /// The words of a shell's line with single quotes.
    fn words(line: &str) -> Vec<String> {
        let mut words = vec![String::new()];
        for (index, part) in line.split('\'').enumerate() {
            let Some(word) = words.last_mut() else { continue };
            if index % 2 == 1 {
                word.push_str(part);
                continue;
            }
            let mut pieces = part.split(' ');
            word.push_str(pieces.next().unwrap_or_default());
            words.extend(pieces.map(str::to_owned));
        }
        words
    }
}
