//! The service's own records, in a table beside those of the documents. It is made with the first use, for the command
//! line may come before any service has.

use async_trait::async_trait;
use serde_json::Value;

use super::{Postgres, clean};
use crate::stores::StoreError;
use crate::stores::records::{Kind, Records};

const DOING: &str = "keep records";

impl Postgres {
    async fn prepare_records(&self) -> Result<(), StoreError> {
        let schema = self.config.postgres.schema.clone();
        let made = self.records.get_or_try_init(|| async {
            self.run(DOING, move |client| {
                Box::pin(async move {
                    // Of several that make the same at once, all but one would fail.
                    let sql = format!(
                        "SELECT pg_advisory_xact_lock(hashtext('answerd records'));
                         CREATE SCHEMA IF NOT EXISTS {schema};
                         CREATE TABLE IF NOT EXISTS {schema}.records (kind text NOT NULL, id text NOT NULL, record jsonb NOT NULL, PRIMARY KEY (kind, id))"
                    );
                    let t = client.transaction().await?;
                    t.batch_execute(&sql).await?;
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
        let (id, record) = (clean(id), record.clone());
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

    async fn all(&self, kind: Kind) -> Result<Vec<Value>, StoreError> {
        self.prepare_records().await?;
        self.read(DOING, move |client| {
            Box::pin(async move {
                let rows = client.query("SELECT record FROM records WHERE kind = $1", &[&kind.name()]).await?;
                Ok(rows.iter().map(|row| row.get(0)).collect())
            })
        })
        .await
    }
}
