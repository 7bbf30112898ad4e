//! `answerd dlq`: the events that were given up. What is published again is noted first, in the store that the settings name.

use std::sync::Arc;

use crate::config::Config;
use crate::identity::audit::Audit;
use crate::stores::nats::{ATTEMPTS, Bus, DeadLetter, REASON, SUBJECT};
use crate::stores::records;
use crate::web::dead_letters;

/// What to do with dead letters.
#[derive(clap::Subcommand)]
pub enum Dlq {
    /// List them, oldest first: number, time, subject, deliveries, reason.
    List {
        /// Most of them.
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// Begin with this number.
        #[arg(long, default_value_t = 0)]
        from: u64,
    },
    /// Show one with its headers and its payload.
    Show {
        /// Its number.
        number: u64,
    },
    /// Publish one again, or all, and take it out of the dead letters.
    Retry {
        /// Its number, or `all`.
        number: String,
    },
}

/// Runs one of them.
pub async fn run(config: Config, what: Dlq) -> Result<(), String> {
    if config.nats.servers.is_empty() {
        return Err("dead letters lie in NATS, and [nats] servers names none".into());
    }
    let bus = Bus::connect(&config.nats).await?;
    match what {
        Dlq::List { limit, from } => {
            let letters = bus.buried(from, limit).await?;
            if letters.is_empty() {
                println!("no dead letters");
            }
            letters.iter().for_each(|letter| println!("{}", line(letter)));
        }
        Dlq::Show { number } => {
            let letter = bus.dead_letter(number).await?;
            println!("{}\n", line(&letter));
            for (name, values) in letter.headers.iter() {
                values.iter().for_each(|value| println!("{name}: {value}"));
            }
            println!("\n{}", String::from_utf8_lossy(&letter.payload));
        }
        Dlq::Retry { number } if number == "all" => {
            // Taken first: what fails again comes back with a new number.
            let letters = bus.buried(0, usize::MAX).await?;
            let count = letters.len();
            let audit = audit(config)?;
            for letter in letters {
                retry(&bus, &audit, letter).await?;
            }
            println!("{count} events published again");
        }
        Dlq::Retry { number } => {
            let number = number.parse().map_err(|_| format!("{number:?} is neither a number nor `all`"))?;
            let letter = bus.dead_letter(number).await?;
            let subject = letter.header(SUBJECT).to_owned();
            retry(&bus, &audit(config)?, letter).await?;
            println!("published again on {subject}");
        }
    }
    Ok(())
}

fn audit(config: Config) -> Result<Audit, String> {
    Ok(Audit::new(records::open(&Arc::new(config))?))
}

async fn retry(bus: &Bus, audit: &Audit, letter: DeadLetter) -> Result<(), String> {
    let noted = audit.note("command line", dead_letters::RETRY, dead_letters::about(&letter)).await;
    noted.map_err(|error| format!("cannot note it, and so it is not done: {error}"))?;
    bus.retry(letter).await
}

fn line(letter: &DeadLetter) -> String {
    format!(
        "{}  {}  {}  delivered {}  {}",
        letter.sequence,
        letter.time,
        letter.header(SUBJECT),
        letter.header(ATTEMPTS),
        letter.header(REASON)
    )
}
