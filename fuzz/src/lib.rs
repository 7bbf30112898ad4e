//! The parsers of answerd for fuzzing: the files that read bytes from outside and need none of the large libraries, mounted
//! by path. So a fuzzer is built in minutes, where the whole service takes half an hour.
//!
//! What they import from `crate::` is here under the same path. A file that comes to import more needs it mounted here, or
//! does not belong among the parsers. `harness` is what the targets share.

// Much of what is mounted is called by the service only.
#![allow(dead_code)]

#[path = "../../src/actors"]
pub mod actors {
    pub mod stats;
}
#[path = "../../src/answer/mod.rs"]
pub mod answer;
#[path = "../../src/budgets"]
pub mod budgets {
    pub mod rules;
}
#[path = "../../src/config/mod.rs"]
pub mod config;
#[path = "../../src/documents/mod.rs"]
pub mod documents;
#[path = "../../src/freshness.rs"]
pub mod freshness;
pub mod harness;
#[path = "../../src/identity"]
pub mod identity {
    mod caller;
    pub mod claims;
    pub mod key;

    pub use self::caller::{BY_ADDRESS, Caller, Refused, Scope};
}
#[path = "../../src/models"]
pub mod models {
    pub mod chat;
    pub mod text;
    mod wanted;

    pub use self::chat::Segment;
    pub use self::wanted::{Demand, Sampling};

    pub mod llama_cpp {
        mod gguf;

        /// What the check says of a GGUF file.
        pub fn check(path: &std::path::Path) -> Result<String, String> {
            gguf::check(path)
        }
    }

    pub mod openai {
        pub mod events;
    }
}
#[path = "../../src/retrieval/mod.rs"]
pub mod retrieval;
#[path = "../../src/stores"]
pub mod stores {
    pub mod dataref {
        pub mod rules;
    }

    pub mod postgres {
        mod clean;
        mod filter;

        use self::clean::{clean, clean_json};
        use crate::retrieval::filter::Filter;

        /// A filter as SQL, and how many parameters that has.
        pub fn condition(filter: &Filter) -> (String, usize) {
            let mut parameters = filter::Parameters::default();
            let sql = filter::condition(filter, &mut parameters);
            (sql, parameters.list().len())
        }
    }
}
