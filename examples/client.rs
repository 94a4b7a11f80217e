//! A client: sends a task, waits for its result.
//!
//! With a grid on this machine (`taskgrid up`): `cargo run --example client`

#![expect(clippy::print_stdout, reason = "an example shows what it got")]

use taskgrid::client::Client;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), taskgrid::client::Error> {
    let client = Client::connect("http://127.0.0.1:50052")?;
    let result = client.run_task("sum", "[1,2,3]").await?;
    println!("{}", String::from_utf8_lossy(&result));
    Ok(())
}
