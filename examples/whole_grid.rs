//! A whole grid in one process, with a task type of one's own, typed on both sides.
//!
//! `cargo run --example whole_grid` prints `{"area":42.0}`.

#![expect(clippy::print_stdout, reason = "an example shows what it got")]

use serde::{Deserialize, Serialize};
use taskgrid::testing::Grid;
use taskgrid::worker::{Context, Failure, TypeSpec, Worker};

#[derive(Deserialize)]
struct Rectangle {
    width: f64,
    height: f64,
}

#[derive(Serialize)]
struct Measured {
    area: f64,
}

async fn measure(_context: Context, rectangle: Rectangle) -> Result<Measured, Failure> {
    Ok(Measured { area: rectangle.width * rectangle.height })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut grid = Grid::start().await?;
    grid.add_worker(Worker::builder().handle_json(TypeSpec::new("area").json(), measure)).await?;
    let id = grid.client().send_task("area", r#"{"width": 6, "height": 7}"#).await?;
    println!("{}", String::from_utf8_lossy(&grid.client().request_result(id).await?));
    grid.stop().await?;
    Ok(())
}
