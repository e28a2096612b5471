//! `turnpike-agent install-cni`: puts plugin and conflist where the container runtime looks for them.
//!
//! Each is written beside its place and renamed, so that the runtime never meets half of one. containerd ignores the
//! rename's event, so the conflist is written to once more where it lies. Nothing of this is removed when the agent
//! ends: DEL needs it. Whether the runtime has loaded the conflist shows in somebody opening it.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use notify::event::AccessKind;
use notify::{EventKind, RecursiveMode, Watcher};
use serde_json::Value;

use crate::config::Config;
use crate::replace;

const PLUGIN: &str = "turnpike-cni";
const CONFLIST: &str = "10-turnpike.conflist";
/// What a release brings along.
const OURS: &str = include_str!("../../../deploy/10-turnpike.conflist");
/// Sockets of the runtimes that are known; one of them says that somebody should read the conflist.
const RUNTIMES: [&str; 2] = ["/run/containerd/containerd.sock", "/run/crio/crio.sock"];

/// Between two touches of the conflist.
const TOUCH_AGAIN: Duration = Duration::from_secs(3);

/// Where to, and how.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct InstallArgs {
    /// The runtime's folder of plugins.
    #[arg(long, default_value = "/opt/cni/bin")]
    bin_dir: PathBuf,
    /// The runtime's folder of network configurations.
    #[arg(long, default_value = "/etc/cni/net.d")]
    conf_dir: PathBuf,
    /// The plugin to install; the one beside this program unless given.
    #[arg(long)]
    plugin: Option<PathBuf>,
    /// Replace a conflist that differs from this release's; the old one is kept with the ending `.before`.
    #[arg(long)]
    replace: bool,
    /// How long to wait for the runtime to load the conflist, in seconds.
    #[arg(long, default_value_t = 10)]
    wait: u64,
}

/// Installs both, and says what it did and what the runtime did.
pub(crate) fn install(config: &Config, args: &InstallArgs) -> anyhow::Result<()> {
    let source = plugin(args)?;
    fs::create_dir_all(&args.bin_dir).with_context(|| args.bin_dir.display().to_string())?;
    fs::create_dir_all(&args.conf_dir).with_context(|| args.conf_dir.display().to_string())?;
    let bytes = fs::read(&source).with_context(|| format!("cannot read {}", source.display()))?;
    ensure!(bytes.starts_with(b"\x7fELF"), "{} is no program", source.display());
    let target = args.bin_dir.join(PLUGIN);
    put(&target, &bytes, 0o755)?;

    let path = args.conf_dir.join(CONFLIST);
    let wanted = conflist(config)?;
    match fs::read(&path) {
        Ok(present) if present != wanted.as_bytes() && !args.replace => {
            println!(
                "{}: it differs from this release's and is kept; --replace exchanges it",
                path.display()
            );
        }
        Ok(present) if present != wanted.as_bytes() => {
            put(&path.with_extension("conflist.before"), &present, 0o644)?;
            put(&path, wanted.as_bytes(), 0o644)?;
        }
        Ok(_) => println!("{}: as it should be", path.display()),
        Err(_) => put(&path, wanted.as_bytes(), 0o644)?,
    }
    for other in earlier(&args.conf_dir)? {
        println!("{other}: comes BEFORE ours, the runtime takes it instead; remove it");
    }
    let runtime = RUNTIMES.iter().find(|socket| Path::new(socket).exists());
    let Some(runtime) = runtime else {
        println!("no container runtime runs here; it will read {} when it starts", path.display());
        return Ok(());
    };
    match is_read(&path, Duration::from_secs(args.wait)) {
        Ok(true) => println!("loaded: somebody has read {} since", path.display()),
        Ok(false) => println!(
            "NOT loaded within {} s: nobody has read {}; does {runtime}'s configuration name another folder? restart it",
            args.wait,
            path.display()
        ),
        Err(error) => println!("whether the runtime has loaded it cannot be seen: {error:#}"),
    }
    Ok(())
}

fn plugin(args: &InstallArgs) -> anyhow::Result<PathBuf> {
    match &args.plugin {
        Some(path) => Ok(path.clone()),
        None => Ok(std::env::current_exe().context("cannot find myself")?.with_file_name(PLUGIN)),
    }
}

/// The release's conflist, with this node's paths where they are not the usual ones.
fn conflist(config: &Config) -> anyhow::Result<String> {
    let usual = Config::default();
    if (&config.paths.socket, config.spool()) == (&usual.paths.socket, usual.spool()) {
        return Ok(OURS.to_owned());
    }
    let mut conflist: Value = serde_json::from_str(OURS)?;
    let plugin = conflist.pointer_mut("/plugins/0").and_then(Value::as_object_mut).context("no plugin")?;
    plugin.insert("socket".to_owned(), config.paths.socket.to_string_lossy().into());
    plugin.insert("spool".to_owned(), config.spool().to_string_lossy().into());
    Ok(serde_json::to_string_pretty(&conflist)? + "\n")
}

/// Writes a file whole or not at all; one that is as it should be is left alone.
fn put(path: &Path, content: &[u8], mode: u32) -> anyhow::Result<()> {
    let write = || -> io::Result<bool> {
        let same_mode = |file: &fs::Metadata| file.permissions().mode() & 0o777 == mode && file.is_file();
        if fs::symlink_metadata(path).is_ok_and(|file| same_mode(&file)) && fs::read(path)? == content {
            return Ok(false);
        }
        replace::durably_with(path, content, Some(fs::Permissions::from_mode(mode)))?;
        Ok(true)
    };
    let wrote = write().with_context(|| format!("cannot write {}", path.display()))?;
    println!("{}: {}", path.display(), if wrote { "written" } else { "as it should be" });
    Ok(())
}

/// Configurations that a runtime takes before ours.
fn earlier(folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let known = ["conf", "conflist", "json"];
        let is_configuration =
            path.extension().and_then(|ending| ending.to_str()).is_some_and(|ending| known.contains(&ending));
        if is_configuration && path.file_name().is_some_and(|name| name < CONFLIST) {
            names.push(path.display().to_string());
        }
    }
    names.sort();
    Ok(names)
}

/// Writes the last byte once more, which makes the runtime look; true when somebody opens the file after that. A
/// runtime that was busy with an earlier event gets another chance every few seconds.
fn is_read(path: &Path, patience: Duration) -> anyhow::Result<bool> {
    let (sender, events) = channel();
    let mut watcher = notify::recommended_watcher(sender)?;
    watcher.watch(path, RecursiveMode::NonRecursive)?;
    let end = Instant::now() + patience;
    loop {
        touch(path)?;
        if opened_after_our_write(&events, end.min(Instant::now() + TOUCH_AGAIN)) {
            return Ok(true);
        }
        if Instant::now() >= end {
            return Ok(false);
        }
    }
}

fn touch(path: &Path) -> io::Result<()> {
    let content = fs::read(path)?;
    let Some((last, before)) = content.split_last() else { return Ok(()) };
    let mut file = File::options().write(true).open(path)?;
    file.seek(SeekFrom::Start(before.len() as u64))?;
    file.write_all(&[*last])
}

fn opened_after_our_write(events: &Receiver<notify::Result<notify::Event>>, deadline: Instant) -> bool {
    // Our own opening comes before our own writing.
    let mut written = false;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match events.recv_timeout(left) {
            Ok(Ok(event)) => match event.kind {
                EventKind::Modify(_) => written = true,
                EventKind::Access(AccessKind::Open(_)) if written => return true,
                _ => {}
            },
            Ok(Err(_)) => {}
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_whole_once_and_then_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::os::unix::fs::symlink("/nowhere", &path).unwrap();
        put(&path, b"content", 0o755).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"content");
        let before = fs::metadata(&path).unwrap().modified().unwrap();
        put(&path, b"content", 0o755).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no draft stays");
    }

    #[test]
    fn a_node_with_paths_of_its_own_gets_them_into_its_conflist() {
        assert_eq!(conflist(&Config::default()).unwrap(), OURS);
        let mut config = Config::default();
        config.paths.socket = "/run/x.sock".into();
        let conflist: Value = serde_json::from_str(&conflist(&config).unwrap()).unwrap();
        assert_eq!(conflist["plugins"][0]["socket"], "/run/x.sock");
        assert_eq!(conflist["plugins"][0]["capabilities"]["bandwidth"], true);
    }

    #[test]
    fn a_reader_after_the_touch_is_seen_and_the_content_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        fs::write(&path, "{}\n").unwrap();
        assert!(!is_read(&path, Duration::from_millis(50)).unwrap(), "nobody reads");
        assert_eq!(fs::read(&path).unwrap(), b"{}\n");
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let _ = fs::read(&path);
                    std::thread::yield_now();
                }
            });
            let seen = is_read(&path, Duration::from_secs(30)).unwrap();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            reader.join().unwrap();
            assert!(seen);
        });
    }
}
