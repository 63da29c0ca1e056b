//! What `up` prints in the end: where everything is, and lines to copy that buy a ticket.

use crate::cluster::Cluster;
use crate::output;

/// Addresses, one a line.
pub(super) fn addresses(cluster: &Cluster) {
    let mut table = output::table(&["", "address", "for operators"]);
    for region in &cluster.regions {
        table.add_row([&format!("region {}", region.region), &region.public, &region.admin]);
    }
    for arbiter in &cluster.arbiters {
        table.add_row([&format!("arbiter {}", arbiter.id), &arbiter.address, &arbiter.people]);
    }
    for edge in &cluster.edges {
        table.add_row([&format!("{}, DNS for {}", edge.edge, edge.zone), &edge.dns.to_string(), &edge.admin]);
    }
    if let Some(sandbox) = &cluster.sandbox {
        table.add_row(["sandbox payments", &sandbox.url, ""]);
    }
    output::line(table);
}

/// The way of one ticket, for a shell with curl. The same lines stand in README.md; a test runs them.
pub fn buying(public: &str, sandbox: &str) -> String {
    BUYING.replace("http://127.0.11.1:8080", public).replace("http://127.0.41.1:8090", sandbox)
}

/// The lines, with the addresses of the first region and of the sandbox.
pub const BUYING: &str = r#"B=http://127.0.11.1:8080; P=http://127.0.41.1:8090; J='content-type: application/json'
field() { sed "s/.*\"$1\":\[*\"\([^\"]*\)\".*/\1/"; }
# a session
S=$(curl -s $B/v1/session -H "$J" -d '{}' | field session)
# join: 202 means that your place is on disk
R=$(curl -s $B/v1/concerts/demo/reservations -H "authorization: Bearer $S" -H "$J" \
    -d '{"request_id":"'$(cat /proc/sys/kernel/random/uuid)'","quantity":2,"tiers":["A","B"]}' | field reservation)
# poll until it is held
until curl -s $B/v1/reservations/$R -H "authorization: Bearer $S" | grep '"status":"held"'; do sleep 1; done
# pay, at the sandbox
I=$(curl -s -X POST $B/v1/reservations/$R/payment -H "authorization: Bearer $S")
curl -s $P/v1/payment_intents/$(echo "$I" | field intent)/confirm \
    -d client_secret=$(echo "$I" | field client_secret) -d payment_method=pm_card_visa; echo
# poll until it is sold; then the ticket with its signed code
until curl -s $B/v1/reservations/$R -H "authorization: Bearer $S" | grep '"status":"sold"'; do sleep 1; done
T=$(curl -s $B/v1/reservations/$R -H "authorization: Bearer $S" | field tickets)
curl -s $B/v1/tickets/$T -H "authorization: Bearer $S"; echo
"#;
