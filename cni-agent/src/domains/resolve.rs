//! RIM: asks for names.

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
    proto::rr::RecordType,
};
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

/// How long a server may take, and how often it is asked.
const PATIENCE: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;
/// What no server knows is asked for again after this.
const NOWHERE: Duration = Duration::from_secs(10);

/// What a name was found to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// None: there is no such name, or it has no addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// How long that is so.
    pub life: Duration,
    /// Why one family could not be asked for: it may have more.
    pub missing: Option<String>,
}

impl Answer {
    /// That of the other family, too.
    fn and(mut self, other: Self) -> Self {
        self.life = match (self.addresses.is_empty(), other.addresses.is_empty()) {
            // What isn't there tells nothing of the life of what is.
            (true, false) => other.life,
            (false, true) => self.life,
            _ => self.life.min(other.life),
        };
        self.addresses.extend(other.addresses);
        self
    }
}

/// Whoever can be asked for names.
pub trait Resolve: Send + Sync + 'static {
    /// The addresses of a name, in both families, from these servers; from the node's own where there are none.
    ///
    /// # Errors
    /// Nobody answers, worded for people.
    fn resolve(
        &self,
        name: &str,
        servers: &[SocketAddr],
    ) -> impl Future<Output = Result<Answer, String>> + Send;
}

/// DNS (RFC 1035), over UDP and, for long answers, TCP.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dns;

impl Dns {
    fn resolver(servers: &[SocketAddr]) -> Result<TokioResolver, String> {
        let provider = TokioRuntimeProvider::default();
        let mut builder = match servers {
            [] => TokioResolver::builder(provider)
                .map_err(|error| format!("the node's /etc/resolv.conf: {error}"))?,
            servers => {
                let config = servers.iter().map(server).collect();
                let config = ResolverConfig::from_name_servers(config);
                TokioResolver::builder_with_config(config, provider)
            }
        };
        let options = builder.options_mut();
        options.timeout = PATIENCE;
        options.attempts = ATTEMPTS;
        options.use_hosts_file = ResolveHosts::Never;
        // What is known is kept elsewhere.
        options.cache_size = 0;
        builder.build().map_err(|error| error.to_string())
    }
}

fn server(address: &SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
    let connections = connections.map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.into())
}

/// The addresses of one family. An IPv4 address that is written as IPv6 is the IPv4 one: policies know it as that.
async fn of_family(
    resolver: &TokioResolver,
    name: &str,
    kind: RecordType,
) -> Result<Answer, String> {
    match resolver.lookup(name, kind).await {
        Ok(found) => {
            let records = found.answers().iter();
            Ok(Answer {
                addresses: records.filter_map(|record| record.data.ip_addr()).collect(),
                life: found
                    .valid_until()
                    .saturating_duration_since(Instant::now()),
                missing: None,
            })
        }
        Err(error) if error.is_no_records_found() => Ok(Answer {
            life: NOWHERE,
            ..Answer::default()
        }),
        Err(error) => Err(error.to_string()),
    }
}

impl Resolve for Dns {
    async fn resolve(&self, name: &str, servers: &[SocketAddr]) -> Result<Answer, String> {
        let resolver = Self::resolver(servers)?;
        // Whole as it is: no search list.
        let name = format!("{name}.");
        let (v4, v6) = tokio::join!(
            of_family(&resolver, &name, RecordType::A),
            of_family(&resolver, &name, RecordType::AAAA)
        );
        match (v4, v6) {
            (Ok(v4), Ok(v6)) => Ok(v4.and(v6)),
            (Ok(known), Err(why)) | (Err(why), Ok(known)) => Ok(Answer {
                missing: Some(why),
                ..known
            }),
            (Err(why), Err(_)) => Err(why),
        }
    }
}
