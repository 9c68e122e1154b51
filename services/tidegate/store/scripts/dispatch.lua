-- Runs the operations of one call in their order. Comes last; the other parts are put in below.
--
-- ARGV: queue limit, 1 = drop the oldest, how many messages may be in flight to a client, how many
-- bytes a queue may have (0 = any number), a word about memory (see common.lua), count of guards, these, then for each operation its letter, how many arguments it has, and these. Outside
-- of a cluster there are no guards; in one they are the prefixes of the operations' partitions, one
-- for each operation. The result has one element per operation and then the number of entries that
-- drop_oldest has removed, or {that number, how many entries were in the queues of sessions that
-- ended, how many of these had not been sent, how many expired ones were deleted}; when memory was
-- looked at, that list with 1 = full, 2 = scarce at its end. An operation that fails is an error in its place, the others go on.

-- Any command, as its words; result: the command's.
local function command(i, last) return call(unpack(ARGV, i, last)) end

-- Letter -> function. The letters are what store/operations.py names and docs/storage.md lists.
local operations = {
  A = append,        -- queue messages for durable sessions
  C = complete,      -- delete queue entries whose delivery is complete
  F = fetch,         -- read a queue
  G = get_retained,  -- read retained messages
  K = command,       -- any command of the server
  L = release,       -- PUBREC received: PUBREL is sent from now on
  M = set_retained,  -- replace or remove a retained message
  R = receipt,       -- store the receipt byte of a packet identifier
}

-- Operations that few calls need. Making their functions costs microseconds, so this is called by
-- the first of them in a call; and those that are not about one session are made only when one of
-- these is needed, by the second result.
local function rare_operations()
-- <the session parts>
  local function other_operations()
-- <the other parts>
    return {
      E = sweep_edges,       -- disconnect the sessions of edges without a lease
      H = log_ends,          -- the newest entries of change logs
      I = renew_lease,       -- renew the lease of an edge
      J = changes,           -- read change logs
      O = renew_router,      -- renew the lease of a router
      P = will_published,    -- delete wills that have been published
      q = verify_wills,      -- which pending wills an edge publishes
      Q = announce_lease,    -- write the number of an edge's lease to partitions
      T = leased_edges,      -- every edge with a lease
      V = verify,            -- which connections own their sessions
      W = sweep_due,         -- claim sessions, wills and queues that are due
      Y = expired_retained,  -- remove expired retained messages
      Z = fence_writer,      -- refuse later writes of a router instance
      h = read_time,         -- broker time, and the server's
      k = retained_use,      -- how much retained messages that count use
      n = user_sessions,     -- how many durable sessions a user has
      e = claim,             -- claim QoS 2 messages for members of groups
      d = expire_queued,     -- delete expired entries of queues
      a = abandon_entries,   -- move entries of an offline member to an abandoned queue
      j = return_entries,    -- move entries that a member may not read to an abandoned queue
      l = trim_abandoned,    -- delete entries of an abandoned queue
      m = schedule_checks,   -- have the queues of offline members checked
      o = skip_epochs,       -- skip numbers that may have been lost in a failover
      b = read_history,      -- read and continue the histories of partitions
      f = replace_history,   -- begin new histories where the store has gone back
      c = sweep_history,     -- disconnect the sessions of connections of earlier histories
      r = read_client,       -- read all state of a client, for a backup
      s = read_queue,        -- read on in a queue, for a backup
      t = read_retained,     -- read retained messages, for a backup
      i = record,            -- add events to the record
      u = list_sessions,     -- durable sessions that match, page by page
      v = describe_session,  -- the state of one session, in figures
      w = list_subscribers,  -- durable sessions with a topic filter, page by page
      x = list_retained,     -- topics with a retained message, page by page
      y = retained_levels,   -- levels of topics with a retained message, page by page
      z = clear_queue,       -- delete what is in a queue
    }
  end
  return {
    B = durable_sessions,  -- read durable sessions with their subscriptions
    D = detach,            -- end a connection
    N = attach,            -- CONNECT: take ownership of a session
    S = subscribe,         -- store subscriptions
    U = unsubscribe,       -- remove subscriptions
    X = set_expiry,        -- change the session expiry interval
    g = replayed,          -- retained messages have been sent or queued
    _ = reserve_epochs,    -- take epochs for connections of one process that are not stored
    p = withdraw_connect,  -- a CONNECT without an outcome has none from now on
  }, other_operations
end

local rare, make_others, others
local function operation(letter)
  if operations[letter] then return operations[letter] end
  if not rare then rare, make_others = rare_operations() end
  if rare[letter] then return rare[letter] end
  others = others or make_others()
  return others[letter]
end

-- Why the server cannot run an operation on this partition; false if it can. An operation that found
-- some of its keys here and the others gone would be half done. The prefix itself is a key that
-- never exists, and while a slot moves only those that do are answered: so all of them are here, and
-- stay until the end of this call.
local elsewhere = {}
local function check(P)
  local answer = redis.pcall('EXISTS', P)
  local text = type(answer) == 'table' and answer.err
  if text and (string.find(text, 'non local key') or string.find(text, 'cluster is down')) then
    text = 'ELSEWHERE ' .. P
  end
  elsewhere[P] = text and {err = text} or false
end

local results, guards, total = {}, tonumber(ARGV[6]), #ARGV
local at = 7 + guards
while at < total do
  local last = at + 1 + tonumber(ARGV[at + 1])
  local fine, result = true, false
  if guards > 0 then
    local P = ARGV[7 + #results]
    if elsewhere[P] == nil then check(P) end
    result = elsewhere[P]
  end
  if not result then fine, result = pcall(operation(ARGV[at]), at + 2, last) end
  if not fine and type(result) ~= 'table' then
    -- Redis 7.0 gives the text of an error, later servers a table; Lua's own errors have no code.
    result = string.gsub(tostring(result), '^-', '')
    if not string.find(result, '^%u+ ') then result = 'ERR ' .. result end
    result = {err = result}
  end
  results[#results + 1] = result
  at = last + 1
end
results[#results + 1] = (looked or queued_at_end > 0 or expired > 0)
  and {evicted, queued_at_end, unsent_at_end, expired, looked} or evicted
return results
