use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::mpsc::channel,
    time::Instant,
};

use tempfile::TempDir;

use super::*;

/// A server that gives every request the same answer, and passes on what was
/// asked for.
fn serve(status: &'static str, body: Vec<u8>) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (asked, requests) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let path = read_request(&stream);
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            // The client may have had enough before all was sent.
            let sent = stream
                .write_all(head.as_bytes())
                .and_then(|()| stream.write_all(&body));
            if asked.send(path).is_err() || sent.is_err() {
                continue;
            }
        }
    });
    (url, requests)
}

fn read_request(stream: &TcpStream) -> String {
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    let first = lines.next().unwrap();
    lines.find(String::is_empty).unwrap();
    first.split(' ').nth(1).unwrap().to_owned()
}

fn client(urls: &[&str], limit: u64) -> (TempDir, Client) {
    let folder = TempDir::new().unwrap();
    let cache = Cache::open(&folder.path().join("cache"), 1 << 30).unwrap();
    let client = Client {
        agent: agent(),
        urls: urls.iter().map(|url| (*url).to_owned()).collect(),
        cache: Arc::new(cache),
        limit,
    };
    (folder, client)
}

/// This program serves as a debug file: it is ELF and has a build-id.
fn program() -> (Vec<u8>, Vec<u8>) {
    let bytes = fs::read("/proc/self/exe").unwrap();
    let build_id = build_id_of(&fs::File::open("/proc/self/exe").unwrap()).unwrap();
    assert!(!build_id.is_empty());
    (bytes, build_id)
}

fn files(client: &Client) -> Vec<String> {
    let files = fs::read_dir(client.cache.folder()).unwrap();
    files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn what_a_server_has_is_fetched_once() {
    let (bytes, build_id) = program();
    let (empty, asked_first) = serve("404 Not Found", Vec::new());
    let (url, asked) = serve("200 OK", bytes.clone());
    let (_folder, client) = client(&[&empty, &format!("{url}/")], 1 << 30);
    assert!(client.fetch(&build_id).unwrap());
    let path = format!("/buildid/{}/debuginfo", hex(&build_id));
    assert_eq!(asked_first.recv().unwrap(), path);
    assert_eq!(asked.recv().unwrap(), path);
    let file = client
        .cache
        .folder()
        .join(format!("{}.debug", hex(&build_id)));
    assert_eq!(fs::read(file).unwrap(), bytes);
    assert!(!client.fetch(&build_id).unwrap());
    assert!(asked.try_recv().is_err());
}

#[test]
fn what_no_server_has_is_not_asked_for_again() {
    let (url, asked) = serve("404 Not Found", Vec::new());
    let (_folder, client) = client(&[&url], 1 << 30);
    assert!(!client.fetch(b"\x12\x34").unwrap());
    assert_eq!(asked.recv().unwrap(), "/buildid/1234/debuginfo");
    assert!(!client.fetch(b"\x12\x34").unwrap());
    assert!(asked.try_recv().is_err());
    assert_eq!(files(&client), ["1234.missing"]);
}

#[test]
fn what_is_not_the_file_is_not_kept() {
    let (bytes, build_id) = program();
    let (other, _requests) = serve("200 OK", bytes);
    let (text, _requests) = serve("200 OK", b"<html>".to_vec());
    let (broken, _requests) = serve("500 Internal Server Error", Vec::new());
    for (url, expected) in [
        (&other, "not the debug file"),
        (&text, "not the debug file"),
        (&broken, "500"),
        (&"http://127.0.0.1:1".to_owned(), "127.0.0.1:1"),
    ] {
        let (_folder, client) = client(&[url], 1 << 30);
        let error = client.fetch(b"\x12\x34").unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(files(&client), [] as [String; 0]);
    }
    let (url, _requests) = serve("200 OK", program().0);
    let (_folder, client) = client(&[&url], 1000);
    assert!(client.fetch(&build_id).is_err(), "too large");
    assert_eq!(files(&client), [] as [String; 0]);
}

/// A server whose certificate this host does not trust.
#[test]
fn servers_prove_who_they_are() {
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let chain = vec![key.cert.der().clone()];
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, private.unwrap())
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let mut session = rustls::ServerConnection::new(Arc::new(config)).unwrap();
        while session.complete_io(&mut stream).is_ok() {}
    });
    let (_folder, client) = client(&[&format!("https://localhost:{port}")], 1 << 20);
    let error = client.fetch(b"\x12\x34").unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
}

#[test]
fn nobody_waits_for_a_server() {
    // It accepts, and never answers.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let folder = TempDir::new().unwrap();
    let cache = Cache::open(&folder.path().join("cache"), 1 << 30).unwrap();
    let downloads = Downloads::start(vec![url], Arc::new(cache), 1 << 30).unwrap();
    let start = Instant::now();
    for number in 0..3 * QUEUE as u32 {
        downloads.want(&number.to_le_bytes());
        downloads.want(&number.to_le_bytes());
    }
    assert!(start.elapsed() < CONNECT_TIME);
    assert!(downloads.asked.lock().unwrap().len() <= QUEUE + 1);
}

#[test]
fn this_host_trusts_somebody() {
    if AUTHORITIES.iter().any(|path| Path::new(path).exists()) {
        assert!(!authorities().is_empty());
    }
}
