//! Container images made on the spot from this machine's own Debian binaries: no registry, no download.
//!
//! An image is two layers (a base with busybox, then the program with the shared libraries that the loader names)
//! in a docker-archive that `ctr images import` reads. Archives are kept under `target/lab-images`, named after a
//! digest of what they were made from, so an upgraded package makes a new one.
//!
//! Leaves out: compression (the archives are read from the page cache), other platforms, whiteouts.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

mod archive;
mod rootfs;

use archive::ImageConfig;
use rootfs::Rootfs;

use crate::place;

/// The image's busybox, statically linked: package `busybox-static`.
const BUSYBOX: &str = "/bin/busybox";

/// Where nginx of [`Image::Nginx`] writes one line for each request, see [`NGINX_LOG_FORMAT`].
pub const NGINX_ACCESS_LOG: &str = "/var/log/nginx/access.log";

/// What a line of [`NGINX_ACCESS_LOG`] holds: the client's address and port as `accept4()` gave them to nginx, the
/// address and port that it was asked at, the request, the status.
pub const NGINX_LOG_FORMAT: &str = "$remote_addr $remote_port $server_addr $server_port \"$request\" $status";

/// The images of the lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Image {
    /// What holds a pod's namespaces: a busybox that sleeps.
    Pause,
    /// A shell with busybox's applets; sleeps unless told otherwise.
    Busybox,
    /// Debian's unmodified nginx, serving on port 80 (IPv4 and IPv6 sockets) and on 8080 (one dual-stack socket).
    /// `/` answers with the client's address and port, `/blob` with 1 MiB.
    Nginx,
    /// iperf3, a server unless told otherwise.
    Iperf3,
    /// Python 3 with its standard library; sleeps unless told otherwise.
    Python,
}

impl Image {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Pause, Self::Busybox, Self::Nginx, Self::Iperf3, Self::Python];

    /// The name that the runtime knows it by.
    pub fn reference(self) -> &'static str {
        match self {
            Self::Pause => "lab.turnpike.io/pause:1",
            Self::Busybox => "lab.turnpike.io/busybox:1",
            Self::Nginx => "lab.turnpike.io/nginx:1",
            Self::Iperf3 => "lab.turnpike.io/iperf3:1",
            Self::Python => "lab.turnpike.io/python3:1",
        }
    }

    /// The file to import, made now unless it is there already.
    ///
    /// # Errors
    /// When a program that it holds is not installed, or the folder cannot be written.
    pub fn archive(self) -> Result<PathBuf> {
        let profile = place::binary_folder()?;
        self.archive_in(&profile.parent().unwrap_or(&profile).join("lab-images"))
    }

    fn archive_in(self, folder: &Path) -> Result<PathBuf> {
        let layers = self.layers().with_context(|| format!("collect the files of {}", self.reference()))?;
        let config = self.config();
        let digest = archive::digest_of_sources(&layers, &config)?;
        let path = folder.join(format!("{}-{digest}.tar", self.name()));
        if !path.is_file() {
            fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
            archive::write(&path, self.reference(), &layers, &config)
                .with_context(|| format!("write {}", path.display()))?;
        }
        Ok(path)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Busybox => "busybox",
            Self::Nginx => "nginx",
            Self::Iperf3 => "iperf3",
            Self::Python => "python3",
        }
    }

    fn config(self) -> ImageConfig {
        let command: &[&str] = match self {
            Self::Pause | Self::Busybox | Self::Python => &["/bin/sleep", "2147483647"],
            Self::Nginx => &["/usr/sbin/nginx", "-c", "/etc/nginx/nginx.conf"],
            Self::Iperf3 => &["/usr/bin/iperf3", "-s"],
        };
        ImageConfig {
            command: command.iter().map(|&word| word.to_owned()).collect(),
            env: vec!["PATH=/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
        }
    }

    fn layers(self) -> Result<Vec<Rootfs>> {
        let base = base()?;
        Ok(match self {
            Self::Pause | Self::Busybox => vec![base],
            Self::Nginx => vec![base, nginx()?],
            Self::Iperf3 => vec![base, iperf3()?],
            Self::Python => vec![base, python()?],
        })
    }
}

fn base() -> Result<Rootfs> {
    let mut root = Rootfs::default();
    for folder in ["dev", "proc", "sys", "run", "root", "srv", "usr/bin", "usr/sbin", "sbin", "var/log"] {
        root.folder(folder, 0o755);
    }
    for folder in ["tmp", "var/tmp"] {
        root.folder(folder, 0o1777);
    }
    root.file("bin/busybox", BUSYBOX)?;
    for applet in rootfs::output(BUSYBOX, &["--list"])?.lines().filter(|&name| name != "busybox") {
        root.link(&format!("bin/{applet}"), "busybox");
    }
    root.text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n");
    root.text("etc/group", "root:x:0:\nnogroup:x:65534:\n");
    root.text("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n");
    Ok(root)
}

fn nginx() -> Result<Rootfs> {
    let mut root = Rootfs::default();
    root.program("/usr/sbin/nginx")?;
    for folder in ["var/log/nginx", "var/lib/nginx", "srv"] {
        root.folder(folder, 0o755);
    }
    root.text("etc/nginx/nginx.conf", &nginx_config());
    root.text("srv/blob", &"turnpike\n".repeat((1 << 20) / 9));
    Ok(root)
}

fn nginx_config() -> String {
    format!(
        r#"daemon off;
user root root;
worker_processes 1;
pid /run/nginx.pid;
error_log stderr notice;
events {{ worker_connections 4096; }}
http {{
    log_format lab '{NGINX_LOG_FORMAT}';
    access_log {NGINX_ACCESS_LOG} lab;
    default_type text/plain;
    keepalive_timeout 65;
    keepalive_requests 1000000;
    server {{
        listen 80;
        listen [::]:80 ipv6only=on;
        listen [::]:8080 ipv6only=off;
        location / {{ return 200 "$remote_addr $remote_port\n"; }}
        location = /blob {{ root /srv; }}
    }}
}}
"#
    )
}

fn iperf3() -> Result<Rootfs> {
    let mut root = Rootfs::default();
    root.program("/usr/bin/iperf3")?;
    Ok(root)
}

fn python() -> Result<Rootfs> {
    let mut root = Rootfs::default();
    let interpreter = fs::canonicalize("/usr/bin/python3").context("find Debian's python3")?;
    let name = interpreter.file_name().context("python3 has no name")?.to_string_lossy().into_owned();
    root.program(&interpreter.to_string_lossy())?;
    root.link("usr/bin/python3", &name);
    // Parts that no server or client of the lab imports, and that make up most of the size.
    let left_out =
        ["test", "idlelib", "tkinter", "ensurepip", "lib2to3", "pydoc_data", "__pycache__", "dist-packages"];
    root.tree(&format!("/usr/lib/{name}"), |entry| !left_out.contains(&entry))?;
    root.libraries_of_tree(&format!("usr/lib/{name}/lib-dynload"))?;
    Ok(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_made_once_and_is_the_same_for_the_same_sources() {
        let folder = tempfile::tempdir().unwrap();
        let first = Image::Busybox.archive_in(folder.path()).unwrap();
        let bytes = fs::read(&first).unwrap();
        fs::remove_file(&first).unwrap();
        let second = Image::Busybox.archive_in(folder.path()).unwrap();
        assert_eq!(first, second);
        assert_eq!(bytes, fs::read(&second).unwrap());
    }

    #[test]
    fn the_manifest_names_every_layer_of_the_archive() {
        let folder = tempfile::tempdir().unwrap();
        let path = Image::Iperf3.archive_in(folder.path()).unwrap();
        let mut names = Vec::new();
        let mut manifest = serde_json::Value::Null;
        for entry in tar::Archive::new(fs::File::open(path).unwrap()).entries().unwrap() {
            let entry = entry.unwrap();
            let name = entry.path().unwrap().to_string_lossy().into_owned();
            if name == "manifest.json" {
                manifest = serde_json::from_reader(entry).unwrap();
            }
            names.push(name);
        }
        let layers = manifest[0]["Layers"].as_array().unwrap();
        assert_eq!(layers.len(), 2);
        for layer in layers {
            assert!(names.iter().any(|name| name == layer.as_str().unwrap()), "{layer} is not in {names:?}");
        }
        assert_eq!(manifest[0]["RepoTags"][0], Image::Iperf3.reference());
    }
}
