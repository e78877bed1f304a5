//! A broker whose clients must speak TLS and say who they are.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{Broker, free_ports};

/// Password of the stores of certificates; `keytool` wants one of six characters.
const STORE_PASSWORD: &str = "fixture";

/// One node with a listener for TLS and SASL/PLAIN beside the plain one, which only the script asks.
#[derive(Debug)]
pub struct Secured {
    broker: Broker,
    port: u16,
    dir: tempfile::TempDir,
}

impl Secured {
    /// The user that the broker knows.
    pub const USER: &str = "barrage";
    /// Its password.
    pub const PASSWORD: &str = "the right one";

    /// Makes certificates with Java's `keytool`, and starts the node.
    ///
    /// # Panics
    /// When `keytool` is missing or the node does not start; the reason is printed.
    #[must_use]
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = dir.path().join("broker.p12");
        let ca = dir.path().join("ca.pem");
        // Its own authority, valid for the address and for the name.
        keytool(
            &store,
            &["-genkeypair", "-keyalg", "EC", "-validity", "2", "-dname", "CN=127.0.0.1"],
            &["-ext", "bc=ca:true", "-ext", "san=ip:127.0.0.1,dns:localhost"],
        );
        keytool(&store, &["-exportcert", "-rfc", "-file"], &[ca.to_str().expect("UTF-8")]);
        let ports = free_ports(3);
        let (plain, controller, port) = (ports[0], ports[1], ports[2]);
        let (user, password) = (Self::USER, Self::PASSWORD);
        let settings = format!(
            "listeners=SECURE://127.0.0.1:{port},CLIENT://127.0.0.1:{plain},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=SECURE://127.0.0.1:{port},CLIENT://127.0.0.1:{plain}\n\
             listener.security.protocol.map=SECURE:SASL_SSL,CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
             sasl.enabled.mechanisms=PLAIN\n\
             listener.name.secure.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule \
             required user_{user}=\"{password}\";\n\
             listener.name.secure.ssl.keystore.type=PKCS12\n\
             listener.name.secure.ssl.keystore.location={}\n\
             listener.name.secure.ssl.keystore.password={STORE_PASSWORD}\n",
            store.display()
        );
        let properties = dir.path().join("secure.properties");
        std::fs::write(&properties, settings).expect("a temporary file");
        let broker = Broker::start_on(&[plain, controller], &["--properties", properties.to_str().expect("UTF-8")]);
        Self { broker, port, dir }
    }

    /// The node.
    #[must_use]
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Where clients that speak TLS connect.
    #[must_use]
    pub fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The authority that signed the node's certificate, a PEM file.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }
}

fn keytool(store: &Path, command: &[&str], more: &[&str]) {
    let output = Command::new("keytool")
        .args(command)
        .args(more)
        .args(["-alias", "broker", "-storetype", "PKCS12", "-storepass", STORE_PASSWORD, "-keystore"])
        .arg(store)
        .stdin(Stdio::null())
        .output()
        .expect("Java's keytool can be run");
    assert!(output.status.success(), "keytool: {}", String::from_utf8_lossy(&[output.stdout, output.stderr].concat()));
}
