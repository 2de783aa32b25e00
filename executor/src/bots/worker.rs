//! What a bot says of its machine.

use cask_proto::bots::BotSession;
use cask_proto::reapi::Platform;
use cask_proto::reapi::platform::Property;

/// The configuration key under which bots say how many leases they take at once.
const CAPACITY: &str = "capacity";
/// Most leases that one bot is given, whatever it says of itself.
const CAPACITY_MAX: u32 = 1024;

/// How many leases the bot takes at once: what it says, else one.
pub fn capacity(session: &BotSession) -> u32 {
    let configs = session.worker.iter().flat_map(|worker| &worker.configs);
    let said = configs.filter(|config| config.key == CAPACITY).find_map(|config| config.value.parse::<u32>().ok());
    said.unwrap_or(1).clamp(1, CAPACITY_MAX)
}

/// The platform of the bot: the properties of its first device, which is the one that runs things, and those of the whole worker.
/// An empty value is any value, as that API has it.
pub fn platforms(session: &BotSession) -> Vec<Platform> {
    let Some(worker) = &session.worker else { return vec![Platform::default()] };
    let of_device = worker.devices.iter().take(1).flat_map(|device| &device.properties);
    let of_device = of_device.map(|property| (&property.key, &property.value));
    let of_worker = worker.properties.iter().map(|property| (&property.key, &property.value));
    let property = |(name, value): (&String, &String)| Property {
        name: name.clone(),
        value: if value.is_empty() { "*".to_owned() } else { value.clone() },
    };
    vec![Platform { properties: of_device.chain(of_worker).map(property).collect() }]
}

#[cfg(test)]
mod tests {
    use cask_proto::bots::{Device, Worker, device, worker};

    use super::*;

    fn session(capacities: &[&str]) -> BotSession {
        let config = |value: &&str| worker::Config { key: CAPACITY.to_owned(), value: (*value).to_owned() };
        let property = |key: &str, value: &str| device::Property { key: key.to_owned(), value: value.to_owned() };
        BotSession {
            worker: Some(Worker {
                devices: vec![
                    Device {
                        handle: "main".to_owned(),
                        properties: vec![property("OSFamily", "linux"), property("image", "")],
                    },
                    Device { handle: "gpu".to_owned(), properties: vec![property("OSFamily", "none")] },
                ],
                properties: vec![worker::Property { key: "pool".to_owned(), value: "tests".to_owned() }],
                configs: capacities.iter().map(config).collect(),
            }),
            ..BotSession::default()
        }
    }

    #[test]
    fn capacity_is_what_the_bot_says_within_reason() {
        for (said, expected) in
            [(&[][..], 1), (&["7"], 7), (&["0"], 1), (&["many", "3"], 3), (&["-1"], 1), (&["99999999"], CAPACITY_MAX)]
        {
            assert_eq!(capacity(&session(said)), expected, "{said:?}");
        }
        assert_eq!(capacity(&BotSession::default()), 1);
    }

    #[test]
    fn the_first_device_and_the_worker_are_the_platform() {
        let platforms = platforms(&session(&[]));
        let found: Vec<_> =
            platforms[0].properties.iter().map(|property| (property.name.as_str(), property.value.as_str())).collect();
        assert_eq!(found, [("OSFamily", "linux"), ("image", "*"), ("pool", "tests")]);
        assert_eq!(super::platforms(&BotSession::default()), [Platform::default()]);
    }
}
