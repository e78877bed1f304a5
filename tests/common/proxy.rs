//! A network between two processes that can be cut: a TCP proxy.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// What the network does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weather {
    /// Bytes pass.
    Fair,
    /// Connections stay open, new ones too, and nothing passes: what a network does that loses all packets.
    Stalled,
    /// There are no connections, and a new one ends at once.
    Cut,
}

#[derive(Debug)]
struct State {
    weather: Weather,
    /// HOST:PORT of the process behind it.
    to: Option<String>,
    open: Vec<TcpStream>,
}

/// The proxy. Clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct Proxy {
    /// HOST:PORT on which it listens.
    pub(crate) address: String,
    state: Arc<(Mutex<State>, Condvar)>,
}

impl Proxy {
    /// Listens; it leads nowhere before [`Proxy::lead_to`].
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let state = State { weather: Weather::Fair, to: None, open: Vec::new() };
        let state = Arc::new((Mutex::new(state), Condvar::new()));
        let proxy = Self { address, state };
        let own = proxy.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                own.connect(client);
            }
        });
        proxy
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port")
    }

    /// Where it leads from now on.
    pub(crate) fn lead_to(&self, address: &str) {
        self.change(|state| state.to = Some(address.to_owned()));
    }

    /// Nothing passes any more, and nobody is told.
    pub(crate) fn stall(&self) {
        self.change(|state| state.weather = Weather::Stalled);
    }

    /// All connections end, and new ones end at once.
    pub(crate) fn cut(&self) {
        self.change(|state| {
            state.weather = Weather::Cut;
            for stream in state.open.drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        });
    }

    /// All is well again; what was stalled goes on.
    pub(crate) fn heal(&self) {
        self.change(|state| state.weather = Weather::Fair);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.state.1.notify_all();
    }

    fn connect(&self, client: TcpStream) {
        let mut state = self.state.0.lock().unwrap_or_else(PoisonError::into_inner);
        let to = state.to.clone().filter(|_| state.weather != Weather::Cut);
        let Some(server) = to.and_then(|to| TcpStream::connect(to).ok()) else { return };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let both = [(client.try_clone(), server.try_clone()), (server.try_clone(), client.try_clone())];
        state.open.extend([client, server]);
        for (from, to) in both {
            let (Ok(from), Ok(to)) = (from, to) else { return };
            let own = self.clone();
            std::thread::spawn(move || own.pass(from, to));
        }
    }

    /// Passes bytes one way until either side ends, and waits while nothing may pass.
    fn pass(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            let state = self.state.0.lock().unwrap_or_else(PoisonError::into_inner);
            let stalled = |state: &mut State| state.weather == Weather::Stalled;
            drop(self.state.1.wait_while(state, stalled).unwrap_or_else(PoisonError::into_inner));
            if to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }
}
