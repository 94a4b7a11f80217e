//! A worker with task types of one's own.
//!
//! With a grid on this machine (`taskgrid up`), in two terminals:
//!
//! ```text
//! cargo run --example own_type
//! taskgrid client send shout "hello"            prints HELLO!
//! taskgrid client send primes 100               prints 25
//! taskgrid client send area '{"width": 6, "height": 7}'      prints 42
//! ```

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use taskgrid::rpc::Listen;
use taskgrid::shutdown::Shutdown;
use taskgrid::worker::{Config, Context, Failure, TypeSpec, Worker, builtin};

#[derive(Deserialize)]
struct Rectangle {
    width: f64,
    height: f64,
}

const RECTANGLE: &str = r#"{
    "type": "object",
    "required": ["width", "height"],
    "properties": {"width": {"type": "number"}, "height": {"type": "number"}}
}"#;

/// Waits for something (here for a moment): an async handler.
async fn shout(_context: Context, payload: Bytes) -> Result<Bytes, Failure> {
    tokio::time::sleep(Duration::from_millis(10)).await;
    // Any error becomes a failure that is tried again.
    let text = std::str::from_utf8(&payload)?;
    Ok(format!("{}!", text.to_uppercase()).into())
}

/// Computes: a blocking handler, on a thread of its own.
fn primes(context: &Context, payload: &[u8]) -> Result<Bytes, Failure> {
    let text = std::str::from_utf8(payload).map_err(Failure::permanent)?;
    let limit: u64 = text.trim().parse().map_err(Failure::permanent)?;
    let mut found = 0_u64;
    for candidate in 2..=limit {
        // Nobody can stop it from outside, so it asks.
        if candidate % 4_096 == 0 && context.is_cancelled() {
            return Err(Failure::error("stopped"));
        }
        if candidate % 1_000_000 == 0 {
            context.progress(format!("{candidate} of {limit}"));
        }
        let mut divisors = (2..).take_while(|divisor| divisor * divisor <= candidate);
        found += u64::from(divisors.all(|divisor| candidate % divisor != 0));
    }
    Ok(found.to_string().into())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let worker = Worker::builder()
        .handle(TypeSpec::new("shout").text(), shout)
        .handle_blocking(TypeSpec::new("primes").text(), |context, payload| {
            primes(context, &payload)
        })
        .handle_json::<Rectangle, f64, _>(
            TypeSpec::new("area").json_schema(RECTANGLE),
            async |_, Rectangle { width, height }| Ok(width * height),
        )
        .bind(Config {
            listen: Listen { port: builtin::OWN_PORT, ..Listen::default() },
            nameservices: vec!["http://127.0.0.1:50051".to_owned()],
            ..Config::default()
        })
        .await?;
    let shutdown = Shutdown::new();
    let leave = shutdown.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            leave.begin();
        }
    });
    worker.run(shutdown).await?;
    Ok(())
}
