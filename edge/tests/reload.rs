//! A hundred reloads under a steady load of queries over UDP and TCP (Debian package `dnsperf`): none may be lost.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::live::Setup;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const MISSING: &str = "dnsperf is not installed: apt-get install dnsperf";
const RELOADS: usize = 100;
/// Queries under way at once.
const UNDER_WAY: u64 = 50;

/// A load that goes on until it is told to end.
struct Load(Child);

impl Load {
    fn start(to: SocketAddr, mode: &str, queries: &Path) -> Self {
        let mut command = Command::new("dnsperf");
        command.args(["-m", mode, "-s", &to.ip().to_string(), "-p", &to.port().to_string(), "-c", "4", "-T", "1"]);
        // It would end by itself if this test were killed.
        command.args(["-Q", "1500", "-q", &UNDER_WAY.to_string(), "-l", "200", "-t", "5", "-d"]).arg(queries);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        Self(child.unwrap_or_else(|_| panic!("{MISSING}")))
    }

    /// Ends it and reads its account: sent, lost, under way when it was told to end.
    fn end(mut self) -> (u64, u64, u64) {
        kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGINT).unwrap();
        let mut said = String::new();
        std::io::Read::read_to_string(&mut self.0.stdout.take().unwrap(), &mut said).unwrap();
        let count = |what: &str| {
            let line = said.lines().find_map(|line| line.trim().strip_prefix(what))?;
            line.split_whitespace().next()?.parse().ok()
        };
        let counts = count("Queries sent:").zip(count("Queries lost:"));
        let (sent, lost) = counts.unwrap_or_else(|| panic!("dnsperf says nothing of use: {said}"));
        (sent, lost, count("Queries interrupted:").unwrap_or(0))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_query_is_lost_across_a_hundred_reloads() {
    let unlimited = "[answers.rate]\nexempt = ['127.0.0.0/8']";
    let other = format!("{unlimited}\n[[choice.override]]\nnetwork = '127.0.0.0/8'\nregions = ['south', 'west']");
    let setup = Setup::new(unlimited).await;
    let edge = setup.start().await;
    let queries = setup.folder.path().join("queries");
    std::fs::write(&queries, "sale.test A\nwww.sale.test AAAA\nnope.sale.test A\nsale.test MX\n").unwrap();
    let loads = ["udp", "tcp"].map(|mode| Load::start(edge.dns[0], mode, &queries));
    for number in 0..RELOADS {
        setup.write(if number % 2 == 0 { &other } else { unlimited });
        edge.reloader.reload(&edge.board).await.unwrap();
    }
    for load in loads {
        let (sent, lost, under_way) = tokio::task::spawn_blocking(|| load.end()).await.unwrap();
        assert!(sent > 500, "a load of {sent} queries is none");
        assert!(lost == 0 && under_way <= UNDER_WAY, "{lost} of {sent} queries were lost, {under_way} at the end");
    }
    edge.stop().await;
}
