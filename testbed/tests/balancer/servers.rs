//! Unmodified servers of several languages in containers see the client behind the director.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use turnpike_testbed::images::NGINX_ACCESS_LOG;
use turnpike_testbed::{ContainerSpec, Image, Lab, Pod, PodSpec, poll_result};

use super::{DEADLINE, Rig, SOURCE, VIP, address, ask};

const NGINX: u16 = 8001;
pub(super) const BUSYBOX: u16 = 8002;
const PYTHON: u16 = 8003;
const GO: u16 = 8004;
const JAVA: u16 = 8005;

const GO_SOURCE: &str = r#"package main

import (
	"fmt"
	"net"
	"net/http"
)

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		host, port, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintln(w, host, port)
	})
	panic(http.ListenAndServe(":80", nil))
}
"#;

const JAVA_SOURCE: &str = r#"
import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;

public class Who {
    public static void main(String[] args) throws Exception {
        HttpServer server = HttpServer.create(new InetSocketAddress(80), 0);
        server.createContext("/", exchange -> {
            InetSocketAddress client = exchange.getRemoteAddress();
            byte[] body = (client.getAddress().getHostAddress() + " " + client.getPort()).getBytes();
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
        server.start();
    }
}
"#;

/// A CGI program that tells what httpd told it.
const BUSYBOX_SCRIPT: &str = r#"mkdir -p /srv/cgi-bin
printf '#!/bin/sh\nprintf "Content-Type: text/plain\\r\\n\\r\\n"\necho "$REMOTE_ADDR $REMOTE_PORT"\n' >/srv/cgi-bin/who
chmod +x /srv/cgi-bin/who
exec httpd -f -p 80 -h /srv"#;

/// Builds the two compiled servers in a folder that containers see; they are made once for each lab.
fn compile(folder: &std::path::Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join("who.go"), GO_SOURCE)?;
    fs::write(folder.join("Who.java"), JAVA_SOURCE)?;
    let go = Command::new("go")
        .args(["build", "-o", "who", "who.go"])
        .current_dir(folder)
        .env("GO111MODULE", "off")
        .env("GOCACHE", folder.join("go-cache"))
        .output()
        .context("run go: install golang-go (cargo xtask setup)")?;
    ensure!(go.status.success(), "go build: {}", String::from_utf8_lossy(&go.stderr));
    let java = Command::new("javac")
        .args(["-d", ".", "Who.java"])
        .current_dir(folder)
        .output()
        .context("run javac: install default-jdk-headless (cargo xtask setup)")?;
    ensure!(java.status.success(), "javac: {}", String::from_utf8_lossy(&java.stderr));
    Ok(())
}

/// A container that sees the machine's libraries and the folder of compiled servers.
fn with_libraries(folder: &str) -> ContainerSpec {
    ContainerSpec::new(Image::Busybox)
        .mount("/usr/lib", "/usr/lib")
        .mount("/usr/lib", "/lib")
        .mount("/usr/lib64", "/lib64")
        .mount("/etc", "/machine-etc")
        .mount(folder, "/server")
}

fn java_home() -> Result<String> {
    let java = fs::canonicalize("/usr/bin/java").context("find java")?;
    let home = java.parent().and_then(|bin| bin.parent()).context("java lies in a folder")?;
    Ok(home.to_string_lossy().into_owned())
}

/// Verifies: nginx, busybox httpd, Python's http.server, Go's net/http and Java's HttpServer, none of them changed,
/// answer or log the client's own address (and port, where they tell it), over IPv4 and IPv6, on dual-stack sockets;
/// nothing of it enters conntrack; and `lb flows`, `toa check`, `conntrack` and the metrics tell the same.
#[test]
fn servers_of_every_language_see_the_client_behind_the_director() -> Result<()> {
    let lab = Lab::new("lb-servers")?;
    let rig = Rig::new(&lab, SOURCE)?;
    let folder = lab.folder().join("servers");
    compile(&folder)?;
    let folder = folder.to_string_lossy().into_owned();
    let java = java_home()?;
    let python = ["python3", "-u", "-m", "http.server", "80", "--bind", "::"];
    let classpath =
        [&format!("{java}/bin/java"), "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", "/server", "Who"];
    let jvm =
        with_libraries(&folder).mount(&java, &java).mount("/etc/java-17-openjdk", "/etc/java-17-openjdk");
    let start = |name: &str, container: ContainerSpec| rig.turnpike.run_pod(PodSpec::new(name, container));
    let jvm = start("java", jvm.command(&classpath))?;
    let nginx = start("nginx", ContainerSpec::new(Image::Nginx))?;
    let busybox =
        start("busybox", ContainerSpec::new(Image::Busybox).command(&["sh", "-c", BUSYBOX_SCRIPT]))?;
    let python = start("python", ContainerSpec::new(Image::Python).command(&python))?;
    let go = start("go", with_libraries(&folder).command(&["/server/who"]))?;
    let pods = [(&nginx, NGINX), (&busybox, BUSYBOX), (&python, PYTHON), (&go, GO), (&jvm, JAVA)];
    let director = rig.direct(&pods)?;
    for (pod, port) in pods {
        for vip in VIP {
            let what = format!("{} to answer at {vip}", pod.name());
            let (own, body) = poll_result(DEADLINE, &what, || ask(&rig.client, vip, port))?;
            if port == PYTHON {
                let logged = || {
                    pod.log("main")
                        .map(|log| log.split_whitespace().any(|word| address(word) == Some(own.ip())))
                };
                poll_result(DEADLINE, "python's log", || logged()?.then_some(()).context("not logged yet"))?;
                continue;
            }
            let mut words = body.split_whitespace();
            let seen = words.next().and_then(address);
            assert_eq!(seen, Some(own.ip()), "{} answers {body:?}", pod.name());
            if let Some(port) = words.next() {
                assert_eq!(port, own.port().to_string(), "{} answers {body:?}", pod.name());
            }
        }
    }
    let log = nginx.exec(&["cat", NGINX_ACCESS_LOG])?;
    assert!(log.lines().any(|line| line.starts_with("192.0.2.10 ")), "{log}");
    assert_eq!(rig.tracked()?, [0, 0], "{}", rig.turnpike.node().text(&["conntrack", "-L"])?);
    eyes(&rig, &nginx)?;
    drop((director, nginx, busybox, python, go, jvm));
    lab.finish()
}

/// What an SRE is shown of it.
fn eyes(rig: &Rig, nginx: &Pod) -> Result<()> {
    let flows = rig.turnpike(&["lb", "flows"])?;
    assert_eq!(flows["uplinks"].as_array().map(Vec::len), Some(1), "{flows:#}");
    for source in flows["sources"].as_array().context("sources")? {
        assert_eq!((&source["name"], &source["bypass"]), (&"lvs".into(), &true.into()));
        for way in ["to_pods", "from_pods"] {
            assert!(source[way]["bypassed"]["packets"].as_u64() >= Some(10), "{way}: {source:#}");
        }
    }
    let check = rig.turnpike(&["toa", "check", "default/nginx"])?;
    assert_eq!(check["findings"], serde_json::json!([]), "{check:#}");
    assert_eq!((&check["programs"], &check["sources"][0]["kind"]), (&3.into(), &254.into()));
    assert!(check["counters"]["hit"].as_u64() >= Some(2), "{check:#}");
    let latest = &check["connections"][0];
    assert_eq!(latest["outcome"], "hit", "{check:#}");
    assert!(
        latest["client"].as_str().is_some_and(|client| client.starts_with("[fd00:c::10]:")),
        "{latest:#}"
    );
    let by_address = rig.turnpike(&["toa", "check", &nginx.ipv6()?.to_string()])?;
    assert_eq!(by_address["container_id"], check["container_id"]);
    let conntrack = rig.turnpike(&["conntrack"])?;
    assert!(conntrack["max"].as_u64() > Some(0) && conntrack["complete"] == true, "{conntrack:#}");
    let metrics = rig.turnpike.node().text(&["busybox", "wget", "-qO-", "http://127.0.0.1:9471/metrics"])?;
    for line in [
        "turnpike_lb_packets_total{source=\"lvs\",cidr=\"10.9.1.0/24\",direction=\"to_pods\",way=\"bypassed\"}",
        "turnpike_lb_bytes_total{source=\"lvs\",cidr=\"fd00:9:1::/64\",direction=\"from_pods\",way=\"bypassed\"}",
        "turnpike_ebpf_events_total{event=\"toa_hit\"}",
        "turnpike_conntrack_max ",
        "turnpike_conntrack_events_total{event=\"early_drop\"}",
    ] {
        assert!(metrics.contains(line), "no {line} in\n{metrics}");
    }
    Ok(())
}
