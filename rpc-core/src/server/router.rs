//! Which method a request names.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::codegen::{MethodDescriptor, ServiceDescriptor};
use crate::error::{ConfigError, Error};

/// Bytes of an unknown name that its error shows.
const LONGEST_SHOWN: usize = 128;

/// What clients of Kitex v0.9.0 and v0.9.1 write in place of a service's name when they go by a generic or combined one.
const NAMELESS: [&[u8]; 2] = [b"$GenericService", b"CombineService"];

/// Services by name and methods by name; built once, shared by all reactors. Its size depends on the services only, never on what
/// callers ask for.
#[derive(Debug, Default)]
pub(crate) struct Router {
    services: HashMap<&'static str, (&'static ServiceDescriptor, HashMap<&'static str, usize>)>,
    /// Methods that only one service has; `None` if several have it.
    by_method: HashMap<&'static str, Option<usize>>,
    /// Which service those mean that several have.
    fallback: Option<&'static str>,
}

impl Router {
    /// Adds a service whose methods have the numbers from `first`.
    pub(crate) fn add(&mut self, service: &'static ServiceDescriptor, first: usize) -> Result<(), ConfigError> {
        if let Some((other, _)) = self.services.get(service.name()) {
            let full = |s: &ServiceDescriptor| match s.package() {
                "" => s.name().to_owned(),
                package => format!("{package}.{}", s.name()),
            };
            let reason = format!(
                "duplicate service: {} and {} have the same name on the wire, which carries no package; serve one of them on a port of its own",
                full(other),
                full(service)
            );
            return Err(ConfigError::new("service", service.name(), reason));
        }
        let numbered = |methods: &[&'static MethodDescriptor]| -> HashMap<&'static str, usize> {
            methods.iter().enumerate().map(|(i, m)| (m.name(), first + i)).collect()
        };
        let methods = numbered(service.methods());
        for (name, index) in &methods {
            self.by_method.entry(name).and_modify(|only| *only = None).or_insert(Some(*index));
        }
        self.services.insert(service.name(), (service, methods));
        Ok(())
    }

    /// A method that several services have is this one's where a call names none of them.
    pub(crate) fn fall_back_to(&mut self, service: &'static ServiceDescriptor) -> Result<(), ConfigError> {
        match self.fallback.replace(service.name()) {
            None => Ok(()),
            Some(other) => {
                let reason = format!("{other} is the fallback already; add only one service by `add_fallback`");
                Err(ConfigError::new("service", service.name(), reason))
            }
        }
    }

    /// The method's number. Where a service is named it is looked up there. Callers need not name one: then the only service that has the
    /// method is meant, or the fallback. Source: Kitex v0.15, `SearchService` in server/service.go; v0.11 looked for the method of a service
    /// that it did not have, too.
    pub(crate) fn find(&self, service: Option<&[u8]>, method: &[u8]) -> Result<usize, Error> {
        let name = std::str::from_utf8(method).unwrap_or("");
        let service = service.filter(|name| !NAMELESS.contains(name));
        let known = service.and_then(|s| self.services.get(std::str::from_utf8(s).ok()?));
        if let Some((descriptor, methods)) = known {
            let found = methods.get(name).copied();
            return found.ok_or_else(|| Error::unknown_method(descriptor.name(), &shown(method)));
        }
        if let Some(unknown) = service {
            return Err(Error::unknown_service(&shown(unknown), &shown(method)));
        }
        let of_fallback = || self.services.get(self.fallback?)?.1.get(name).copied();
        let found = self.by_method.get(name).copied().flatten().or_else(of_fallback);
        found.ok_or_else(|| Error::unknown_service("", &shown(method)))
    }
}

/// A name as it goes into a text: a caller may have made one as long as a frame.
fn shown(name: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(&name[..name.len().min(LONGEST_SHOWN)])
}

#[cfg(test)]
mod tests {
    use super::*;

    static PING: MethodDescriptor = MethodDescriptor::new("a", "A", "Ping");
    static ECHO: MethodDescriptor = MethodDescriptor::new("a", "A", "Echo");
    static OTHER_ECHO: MethodDescriptor = MethodDescriptor::new("b", "B", "Echo");
    static A: ServiceDescriptor = ServiceDescriptor::new("a", "A", &[&PING, &ECHO]);
    static B: ServiceDescriptor = ServiceDescriptor::new("b", "B", &[&OTHER_ECHO]);
    static OTHER_A: ServiceDescriptor = ServiceDescriptor::new("x", "A", &[]);

    #[test]
    #[rustfmt::skip]
    fn a_request_finds_its_method() {
        let mut router = Router::default();
        router.add(&A, 0).unwrap();
        router.add(&B, 2).unwrap();
        let check = |service: Option<&str>, method: &str, expected: &str| {
            let got = match router.find(service.map(str::as_bytes), method.as_bytes()) {
                Ok(index) => index.to_string(),
                Err(error) => error.cause().to_string(),
            };
            assert!(got.contains(expected), "{service:?} {method}: {got}");
        };
        //    isn          method       number, or the exception
        check(Some("A"),   "Echo",      "1");
        check(Some("B"),   "Echo",      "2");
        check(None,        "Ping",      "0");
        check(Some("C"),   "Ping",      "exception 20: unknown service C, method Ping");
        check(Some("$GenericService"), "Ping", "0");
        check(None,        "Echo",      "exception 20: unknown service , method Echo");
        check(Some("C"),   "Nope",      "exception 20: unknown service C, method Nope");
        check(Some("A"),   "Nope",      "exception 1: unknown method Nope (service A)");
        router.fall_back_to(&B).unwrap();
        let check = |service: Option<&str>, method: &str, expected: Option<usize>| {
            assert_eq!(router.find(service.map(str::as_bytes), method.as_bytes()).ok(), expected, "{service:?} {method}");
        };
        check(Some("A"),   "Echo",      Some(1));
        check(None,        "Echo",      Some(2));
        check(Some("C"),   "Echo",      None);
        check(Some("CombineService"), "Echo", Some(2));
        check(None,        "Ping",      Some(0));
        check(None,        "Nope",      None);
        let error = router.fall_back_to(&A).unwrap_err();
        assert!(error.to_string().contains("B is the fallback already"), "{error}");
        let long = router.find(None, &[b'x'; 1 << 20]).unwrap_err().to_string();
        assert!(long.len() < 256, "{} bytes about an unknown name", long.len());
        let error = router.add(&OTHER_A, 3).unwrap_err();
        assert!(error.to_string().contains("a.A and x.A"), "{error}");
    }
}
