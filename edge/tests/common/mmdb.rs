//! Writes small databases in MaxMind DB format, so that tests need none from elsewhere.

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;

/// A value of a record.
pub(crate) enum Value {
    Text(&'static str),
    Number(u32),
    Short(u16),
    Long(u64),
    Double(f64),
    Map(Vec<(&'static str, Value)>),
}

impl Value {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Value::Text(text) => {
                out.push(2 << 5 | u8::try_from(text.len()).unwrap());
                assert!(text.len() < 29);
                out.extend(text.bytes());
            }
            Value::Number(n) => {
                out.push(6 << 5 | 4);
                out.extend(n.to_be_bytes());
            }
            Value::Short(n) => {
                out.push(5 << 5 | 2);
                out.extend(n.to_be_bytes());
            }
            Value::Long(n) => {
                out.extend([8, 2]);
                out.extend(n.to_be_bytes());
            }
            Value::Double(d) => {
                out.push(3 << 5 | 8);
                out.extend(d.to_be_bytes());
            }
            Value::Map(entries) => {
                assert!(entries.len() < 29);
                out.push(7 << 5 | u8::try_from(entries.len()).unwrap());
                for (key, value) in entries {
                    Value::Text(key).write(out);
                    value.write(out);
                }
            }
        }
    }
}

/// Writes a database of these networks, none of which lies in another; IPv4 lies at `::/96` of an IPv6 tree.
pub(crate) fn write(path: &Path, networks: &[(&str, Value)]) {
    const NONE: usize = usize::MAX;
    const DATA: usize = 1 << 40;
    let mut nodes = vec![[NONE; 2]];
    let mut data = Vec::new();
    for (network, value) in networks {
        let network: IpNet = network.parse().unwrap();
        let (bits, len) = match network.network() {
            IpAddr::V4(a) => (u128::from(a.to_bits()), 96 + network.prefix_len()),
            IpAddr::V6(a) => (a.to_bits(), network.prefix_len()),
        };
        let mut at = 0;
        for depth in 0..len {
            let bit = (bits >> (127 - depth)) as usize & 1;
            if depth + 1 == len {
                nodes[at][bit] = DATA + data.len();
            } else {
                if nodes[at][bit] == NONE {
                    nodes[at][bit] = nodes.len();
                    nodes.push([NONE; 2]);
                }
                at = nodes[at][bit];
            }
        }
        value.write(&mut data);
    }
    let count = nodes.len();
    let mut file = Vec::new();
    for record in nodes.iter().flatten() {
        let record = match *record {
            NONE => count,
            data if data >= DATA => count + 16 + data - DATA,
            node => node,
        };
        file.extend(u32::try_from(record).unwrap().to_be_bytes());
    }
    file.extend([0; 16]);
    file.extend(data);
    file.extend(b"\xab\xcd\xefMaxMind.com");
    Value::Map(vec![
        ("node_count", Value::Number(u32::try_from(count).unwrap())),
        ("record_size", Value::Short(32)),
        ("ip_version", Value::Short(6)),
        ("database_type", Value::Text("test")),
        ("languages", Value::Map(vec![])),
        ("binary_format_major_version", Value::Short(2)),
        ("binary_format_minor_version", Value::Short(0)),
        ("build_epoch", Value::Long(1_700_000_000)),
        ("description", Value::Map(vec![])),
    ])
    .write(&mut file);
    // The list of languages is an array, which is an extended type: two octets instead of the map's one.
    let at = file.windows(10).rposition(|w| w == b"\x49languages").unwrap() + 10;
    file.splice(at..=at, [0x00, 0x04]);
    std::fs::write(path, file).unwrap();
}
