//! The service's own records, in a table beside those of the documents. It is made with the first use, for the command
//! line may come before any service has.

use async_trait::async_trait;
use serde_json::Value;

use super::{Postgres, clean, clean_json};
use crate::stores::StoreError;
use crate::stores::records::{Kind, Place, Records};

const DOING: &str = "keep records";

impl Postgres {
    async fn prepare_records(&self) -> Result<(), StoreError> {
        let schema = self.config.postgres.schema.clone();
        let made = self.records.get_or_try_init(|| async {
            self.run(DOING, move |client| {
                Box::pin(async move {
                    // Of several that make the same at once, all but one would fail; and who may make nothing need not,
                    // once it is there.
                    let t = client.transaction().await?;
                    t.query_one(
                        "SELECT pg_advisory_xact_lock(hashtextextended('answerd records ' || $1, 0))",
                        &[&schema],
                    )
                    .await?;
                    let there = "SELECT to_regclass($1::text) IS NOT NULL, to_regnamespace($2::text) IS NOT NULL";
                    let there = t.query_one(there, &[&format!("{schema}.records"), &schema]).await?;
                    if !there.get::<_, bool>(1) {
                        t.batch_execute(&format!("CREATE SCHEMA {schema}")).await?;
                    }
                    if !there.get::<_, bool>(0) {
                        let table =
                            "kind text NOT NULL, id text NOT NULL, record jsonb NOT NULL, PRIMARY KEY (kind, id)";
                        t.batch_execute(&format!("CREATE TABLE {schema}.records ({table})")).await?;
                    }
                    t.commit().await
                })
            })
            .await
        });
        made.await.map(drop)
    }
}

#[async_trait]
impl Records for Postgres {
    async fn put(&self, kind: Kind, id: &str, record: &Value) -> Result<(), StoreError> {
        self.prepare_records().await?;
        let (id, record) = (clean(id), clean_json(record));
        self.read(DOING, move |client| {
            let (id, record) = (id.clone(), record.clone());
            Box::pin(async move {
                let sql = "INSERT INTO records VALUES ($1, $2, $3) ON CONFLICT (kind, id) DO UPDATE SET record = excluded.record";
                client.execute(sql, &[&kind.name(), &id, &record]).await
            })
        })
        .await
        .map(drop)
    }

    async fn remove(&self, kind: Kind, id: &str) -> Result<(), StoreError> {
        self.prepare_records().await?;
        let id = clean(id);
        self.read(DOING, move |client| {
            let id = id.clone();
            Box::pin(async move {
                client.execute("DELETE FROM records WHERE kind = $1 AND id = $2", &[&kind.name(), &id]).await
            })
        })
        .await
        .map(drop)
    }

    async fn get(&self, kind: Kind, id: &str) -> Result<Option<Value>, StoreError> {
        self.prepare_records().await?;
        let id = clean(id);
        self.read(DOING, move |client| {
            let id = id.clone();
            Box::pin(async move {
                let sql = "SELECT record FROM records WHERE kind = $1 AND id = $2";
                Ok(client.query_opt(sql, &[&kind.name(), &id]).await?.map(|row| row.get(0)))
            })
        })
        .await
    }

    async fn all(&self, kind: Kind) -> Result<Vec<(String, Value)>, StoreError> {
        self.prepare_records().await?;
        self.read(DOING, move |client| {
            Box::pin(async move {
                let rows = client.query("SELECT id, record FROM records WHERE kind = $1", &[&kind.name()]).await?;
                Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
            })
        })
        .await
    }

    async fn newest(
        &self,
        kind: Kind,
        before: Option<&Place>,
        limit: usize,
    ) -> Result<Vec<(String, Value)>, StoreError> {
        self.prepare_records().await?;
        let (at_ms, id) = before.map_or((i64::MAX, String::new()), |before| (before.at_ms as i64, clean(&before.id)));
        let limit = limit as i64;
        self.read(DOING, move |client| {
            let id = id.clone();
            Box::pin(async move {
                let at = "coalesce((record->>'at_ms')::bigint, 0)";
                let sql = format!(
                    "SELECT id, record FROM records WHERE kind = $1 AND ({at}, id) < ($2, $3) ORDER BY {at} DESC, id DESC LIMIT $4"
                );
                let rows = client.query(sql.as_str(), &[&kind.name(), &at_ms, &id, &limit]).await?;
                Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
            })
        })
        .await
    }
}
