//! The yardstick of `cargo ops bench`: a bare axum server that parses the same join and answers with it.
//!
//! It runs as axum itself serves (without the node's limits on connections and late headers), on the node's allocator and
//! runtime. It stores nothing and checks nothing, so a ratio against it says what all that costs.

use axum::Json;
use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Serialize, Deserialize)]
struct Join {
    request_id: String,
    quantity: u8,
    tiers: Vec<String>,
    any_quantity: bool,
}

async fn join(Json(join): Json<Join>) -> (StatusCode, Json<Join>) {
    (StatusCode::ACCEPTED, Json(join))
}

#[derive(Serialize)]
struct Status {
    reservation: String,
    concert: &'static str,
    status: &'static str,
    position: u64,
    estimated_wait_ms: u64,
    chance: &'static str,
    poll_after_ms: u64,
    quantity: u8,
    region: &'static str,
}

async fn status(Path(reservation): Path<String>) -> Json<Status> {
    Json(Status {
        reservation,
        concert: "bench",
        status: "queued",
        position: 57,
        estimated_wait_ms: 4000,
        chance: "likely",
        poll_after_ms: 5000,
        quantity: 2,
        region: "east",
    })
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(address), Some(threads)) = (arguments.next(), arguments.next()) else {
        anyhow::bail!("usage: echo ADDRESS:PORT WORKER_THREADS");
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads.parse()?).enable_all().build()?;
    runtime.block_on(async move {
        let router = Router::new()
            .route("/v1/concerts/{concert}/reservations", post(join))
            .route("/v1/reservations/{reservation}", get(status));
        let listener = tokio::net::TcpListener::bind(&address).await?;
        axum::serve(listener, router).await?;
        Ok(())
    })
}
