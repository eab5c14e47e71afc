//! Names that generated code uses. Not for hand-written code: they may change with the generator.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

pub use prost;
pub use prost_types;

use rpc_transport::Lane;

use crate::error::ConfigError;
use crate::middleware::Middleware;
pub use crate::server::Methods;

/// A service that can be added to a server; generated.
pub trait Service: Send + 'static {
    /// Its name and methods.
    fn descriptor(&self) -> &'static ServiceDescriptor;
    /// Which methods run on the worker pool.
    fn blocking(&self) -> &Blocking;
    /// Adds each method.
    fn register<M: Middleware>(self, methods: &mut Methods<M>);
}

/// The constant facts of a service.
#[derive(Debug)]
pub struct ServiceDescriptor {
    package: &'static str,
    name: &'static str,
    methods: &'static [&'static MethodDescriptor],
}

impl ServiceDescriptor {
    /// `package` may be empty.
    pub const fn new(package: &'static str, name: &'static str, methods: &'static [&'static MethodDescriptor]) -> Self {
        ServiceDescriptor { package, name, methods }
    }

    /// The service's name without its package: the `isn` of a request.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Its package, perhaps empty.
    pub fn package(&self) -> &'static str {
        self.package
    }

    /// Its methods, in the order of the IDL.
    pub fn methods(&self) -> &'static [&'static MethodDescriptor] {
        self.methods
    }
}

/// The constant facts of a method.
pub struct MethodDescriptor {
    package: &'static str,
    service: &'static str,
    name: &'static str,
    id: OnceLock<usize>,
}

impl MethodDescriptor {
    /// Names as in the IDL; `package` may be empty.
    pub const fn new(package: &'static str, service: &'static str, name: &'static str) -> Self {
        MethodDescriptor { package, service, name, id: OnceLock::new() }
    }

    /// The method's bare name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The service's name without its package.
    pub fn service(&self) -> &'static str {
        self.service
    }

    /// The package, perhaps empty.
    pub fn package(&self) -> &'static str {
        self.package
    }

    /// A small number of this process for the method, from 0.
    #[inline]
    pub(crate) fn id(&self) -> usize {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        *self.id.get_or_init(|| NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// `package.Service/Method`.
impl fmt::Display for MethodDescriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.package.is_empty() {
            write!(f, "{}.", self.package)?;
        }
        write!(f, "{}/{}", self.service, self.name)
    }
}

impl fmt::Debug for MethodDescriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Which methods of a service run on the worker pool, because they block their thread.
#[derive(Clone, Debug, Default)]
pub struct Blocking {
    all: bool,
    names: BTreeSet<String>,
    slow: BTreeSet<String>,
}

impl Blocking {
    /// These methods, by their names in the IDL.
    pub fn methods<N: Into<String>>(&mut self, names: impl IntoIterator<Item = N>) {
        self.names.extend(names.into_iter().map(Into::into));
    }

    /// These methods, each of which may hold its thread for long.
    pub fn slow<N: Into<String>>(&mut self, names: impl IntoIterator<Item = N>) {
        self.slow.extend(names.into_iter().map(Into::into));
    }

    /// Every method.
    pub fn all(&mut self) {
        self.all = true;
    }

    pub(crate) fn lane(&self, method: &str) -> Option<Lane> {
        match self.slow.contains(method) {
            true => Some(Lane::Slow),
            false => (self.all || self.names.contains(method)).then_some(Lane::Fast),
        }
    }

    pub(crate) fn check(&self, service: &ServiceDescriptor) -> Result<(), ConfigError> {
        let known = |name: &String| service.methods.iter().any(|m| m.name == name);
        match self.names.union(&self.slow).find(|name| !known(name)) {
            None => Ok(()),
            Some(name) => {
                let methods: Vec<_> = service.methods.iter().map(|m| m.name).collect();
                let reason = format!("{} has no such method; it has {}", service.name, methods.join(", "));
                Err(ConfigError::new("blocking", name.clone(), reason))
            }
        }
    }
}
