//! `taskgrid health`: asks a role over HTTP how it is. It is the health check of
//! containers, so that an image needs no other program than this one.

use std::io;

use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::http::uri::Scheme;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::exit::{Exit, Failure};
use super::output;

/// Characters shown of what was answered.
const SHOWN: usize = 500;
/// Bytes read of it: enough for as many characters of any length.
const READ: usize = 4 * SHOWN;
/// The port of a URL that names none.
const HTTP_PORT: u16 = 80;

/// Ask a role over HTTP how it is: 0 if well, 1 if not, 5 if it does not answer
#[derive(Debug, Args)]
pub(super) struct Health {
    /// What to ask: http://host:port/readyz, or /healthz
    #[arg(value_parser = url)]
    url: Uri,
    /// The longest to wait for the answer
    #[arg(long, value_name = "DURATION", default_value = "3s")]
    timeout: humantime::Duration,
}

impl Health {
    /// Asks once. Whoever is well has nothing printed.
    pub(super) async fn run(self) -> Result<Exit, Failure> {
        let Self { url, timeout: patience } = self;
        let answered = timeout(*patience, ask(&url)).await;
        let late = |_| Err(io::Error::other(format!("nothing came within {patience}")));
        let answered = answered.unwrap_or_else(late);
        let (status, line) = answered.map_err(|error| {
            Failure::new(Exit::Unreachable, format!("no answer from {url}: {error}"))
        })?;
        if status.is_success() {
            return Ok(Exit::Done);
        }
        let said = output::cell(&line, SHOWN);
        Err(Failure::new(Exit::TaskFailed, format!("{url} answered {status}: {said}")))
    }
}

/// The status, and the first line of the body.
async fn ask(url: &Uri) -> io::Result<(StatusCode, Vec<u8>)> {
    let host = url.host().unwrap_or_default();
    let address = format!("{host}:{}", url.port_u16().unwrap_or(HTTP_PORT));
    let stream = TcpStream::connect(&address).await?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // What goes wrong with the connection is what the request is answered.
    drop(tokio::spawn(connection));
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path).header(HOST, address).body(Empty::<Bytes>::new());
    let request = request.map_err(io::Error::other)?;
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    let status = response.status();
    Ok((status, first_line(response.into_body()).await.map_err(io::Error::other)?))
}

async fn first_line(mut body: Incoming) -> hyper::Result<Vec<u8>> {
    let mut line = Vec::new();
    while line.len() < READ && !line.contains(&b'\n') {
        let Some(frame) = body.frame().await.transpose()? else { break };
        line.extend(frame.into_data().unwrap_or_default());
    }
    let end = line.iter().position(|byte| *byte == b'\n').unwrap_or(line.len());
    line.truncate(end);
    Ok(line)
}

fn url(text: &str) -> Result<Uri, String> {
    let parsed = text.parse::<Uri>().ok();
    let fine = |url: &Uri| {
        url.scheme() == Some(&Scheme::HTTP) && url.host().is_some_and(|host| !host.is_empty())
    };
    parsed.filter(fine).ok_or_else(|| "it looks like http://host:port/path".to_owned())
}
