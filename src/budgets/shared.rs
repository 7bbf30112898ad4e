//! Budgets that all replicas count together, in Redis. A script takes from all budgets of a caller or from none, by the
//! arithmetic of [`super::rules`] and the clock of the server.

use std::sync::{Arc, LazyLock};

use redis::Script;
use sha2::{Digest, Sha256};

use super::rules::{Limited, Limits, Standing, Used};
use super::{Budget, Refused};
use crate::stores::redis::Redis;

/// Takes requests and tokens (`ARGV[1]`, `ARGV[2]`), or gives tokens back where the first is -1 (they were taken at
/// `ARGV[3]`, and `ARGV[4]` of them used); for each budget follow the limits of requests, of tokens a minute and of tokens a day. Gives for each budget
/// what is used of it: what is missing of requests and of tokens, the time of both, the tokens of the day, and its number;
/// and first the time and whether it was taken.
static SCRIPT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local t = redis.call('TIME')
         local now = t[1] * 1000 + math.floor(t[2] / 1000)
         local day = math.floor(now / 86400000)
         local requests, tokens, at = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
         local used, taken = {}, 1
         for n = 1, #KEYS do
           local lr, lm, ld = tonumber(ARGV[3 * n + 2]), tonumber(ARGV[3 * n + 3]), tonumber(ARGV[3 * n + 4])
           local h = redis.call('HMGET', KEYS[n], 'r', 'm', 't', 'd', 'n')
           local r, m, before = tonumber(h[1] or '0'), tonumber(h[2] or '0'), tonumber(h[3] or '0')
           local d, number = tonumber(h[4] or '0'), tonumber(h[5] or '0')
           local passed = math.max(0, now - before)
           r = math.max(0, math.min(r, lr) - passed * lr / 60000)
           m = math.max(0, math.min(m, lm) - passed * lm / 60000)
           if number ~= day then d = 0 end
           if requests >= 0 then
             if (lr > 0 and math.floor(lr - r) < requests) or (lm > 0 and math.floor(lm - m) < tokens) or (ld > 0 and ld - d < tokens) then taken = 0 end
           end
           used[n] = {r, m, d, number}
         end
         local reply = {tostring(now), tostring(taken)}
         for n = 1, #KEYS do
           local u = used[n]
           local lr, lm = tonumber(ARGV[3 * n + 2]), tonumber(ARGV[3 * n + 3])
           if requests < 0 then
             local back, kept = math.max(0, now - at) * lm / 60000, tonumber(ARGV[4])
             u[2] = math.max(0, u[2] - (math.max(0, tokens - back) - math.max(0, kept - back)))
             if math.floor(at / 86400000) == day then u[3] = math.max(0, u[3] - math.max(0, tokens - kept)) end
           elseif taken == 1 then
             if lr > 0 then u[1] = u[1] + requests end
             if lm > 0 then u[2] = u[2] + tokens end
             u[3] = u[3] + tokens
           end
           if requests ~= 0 or tokens ~= 0 then
             redis.call('HSET', KEYS[n], 'r', tostring(u[1]), 'm', tostring(u[2]), 't', tostring(now), 'd', tostring(u[3]), 'n', tostring(day))
             redis.call('PEXPIRE', KEYS[n], 90000000)
           end
           for _, value in ipairs({u[1], u[2], u[3]}) do reply[#reply + 1] = tostring(value) end
         end
         return reply",
    )
});

/// The key of something that is counted of a budget. All on one node: they are taken from together. A name may be long, and
/// have braces.
pub(super) fn key(redis: &Redis, what: &str, who: &str) -> String {
    let name = hex::encode(&Sha256::digest(who.as_bytes())[..16]);
    redis.key(&format!("{what}:{name}"), "budgets")
}

/// See the module.
pub(super) struct Shared(Arc<Redis>);

impl Shared {
    pub(super) fn new(redis: Arc<Redis>) -> Self {
        Self(redis)
    }

    /// Takes from all budgets, or from none; gives when, by the clock of the server. None where Redis does not answer.
    pub(super) async fn take(&self, budgets: &[Budget], wanted: (u64, u64)) -> Option<Result<u64, Refused>> {
        let (now, taken, used) = self.run(budgets, (wanted.0 as i64, wanted.1), (0, 0)).await?;
        if taken {
            return Some(Ok(now));
        }
        // What stood in the way, by the same arithmetic.
        let refused = budgets.iter().zip(used).find_map(|(Budget { who, limits }, used)| {
            let standing = used.check(limits, wanted, now).err()?;
            Some(Refused { who: Arc::clone(who), standing })
        });
        let whole = || Refused {
            who: Arc::clone(&budgets[0].who),
            standing: Standing {
                limited: Limited::TokensPerMinute,
                limit: budgets[0].limits.minute,
                left: 0,
                wait_ms: Some(1000),
            },
        };
        Some(Err(refused.unwrap_or_else(whole)))
    }

    /// Gives back what was taken at a time, by the clock of the server, and not used of it.
    pub(super) async fn give_back(&self, budgets: &[Budget], (taken, used): (u64, u64), taken_ms: u64) {
        let _ = self.run(budgets, (-1, taken), (taken_ms, used)).await;
    }

    /// What is used of each budget.
    pub(super) async fn used(&self, budgets: &[Budget]) -> Option<Vec<Used>> {
        self.run(budgets, (0, 0), (0, 0)).await.map(|(_, _, used)| used)
    }

    async fn run(&self, budgets: &[Budget], wanted: (i64, u64), taken: (u64, u64)) -> Option<(u64, bool, Vec<Used>)> {
        let mut call = SCRIPT.prepare_invoke();
        for Budget { who, .. } in budgets {
            call.key(key(&self.0, "budget", who));
        }
        call.arg(wanted.0).arg(wanted.1).arg(taken.0).arg(taken.1);
        for Budget { limits: Limits { requests, minute, day, .. }, .. } in budgets {
            call.arg(*requests).arg(*minute).arg(*day);
        }
        let reply: Vec<String> = self.0.invoke(&call).await.ok()?;
        let number = |n: usize| reply.get(n)?.parse::<f64>().ok();
        let now = number(0)? as u64;
        let used = (0..budgets.len())
            .map(|n| Some(Used::of(number(3 * n + 2)?, number(3 * n + 3)?, number(3 * n + 4)? as u64, now)));
        Some((now, number(1)? == 1.0, used.collect::<Option<Vec<_>>>()?))
    }
}
