-- The end of connections and sessions, with their wills and their messages of shared subscriptions.

local NEVER = 4294967295
-- A history begins with the time in milliseconds times this: above what any earlier one has given
-- out, except by skipped numbers. 14 digits: so many are exact when Lua makes a string of a number.
local NUMBERS_PER_MS = 8
-- So many numbers are skipped where some may have been lost.
local SKIPPED = 1048576
local CLAIM_MS = 10000
-- A client that reconnects within this time finds its whole queue.
local GRACE_MS = 1000
local ABANDONED_S = 86400
-- A request that is so late comes from a router whose lease has ended.
local LATE_S = 3600
-- Numbers of requests begin at a multiple of this, another one in each process.
local PROCESS_NUMBERS = 4294967296

local function counter_of(P) return P .. (P == 'tg:{g}:' and 'leases' or 'epoch') end

local function number_of_now()
  local now = call('TIME')
  return (now[1] * 1000 + math.floor(now[2] / 1000)) * NUMBERS_PER_MS
end

-- Begins a history of the partition, whose numbers are higher than those of the one before, and than
-- least. Returns the first of them, which nobody gets.
local function begin_history(P, least)
  local counter = counter_of(P)
  local known = math.max(tonumber(call('GET', counter) or 0), least)
  local first = string.format('%.0f', math.max(known + 1, number_of_now()))
  call('SET', counter, first)
  call('DEL', P .. 'history')
  call('HSET', P .. 'history', 'e', first)
  return first
end

-- The next epoch; the first one of all begins a history.
local function next_epoch(P)
  local epoch = call('INCR', P .. 'epoch')
  if epoch > 1 then return epoch end
  begin_history(P, 0)
  return call('INCR', P .. 'epoch')
end

-- Pending wills of a client, oldest first, are listed in a hash: epoch@edge and a line feed of each;
-- the edge is the one that publishes it, '' = a router does.
local function pending_wills(P, C)
  local list, found = call('HGET', P .. 'pending', C), {}
  for epoch, at in string.gmatch(list or '', '(%d+)@([^\n]*)\n') do
    found[#found + 1] = {epoch = epoch, at = at}
  end
  return found
end

local function list_pending(P, C, wills)
  local list = ''
  for _, will in ipairs(wills) do list = list .. will.epoch .. '@' .. will.at .. '\n' end
  if list == '' then
    call('HDEL', P .. 'pending', C)
  else
    call('HSET', P .. 'pending', C, list)
  end
end

-- Makes a will due: it stays, claimed, until it is confirmed that it has been published. Edge at
-- publishes it.
local function pend_will(P, C, epoch, record, now, at)
  local id = epoch .. ':' .. C
  call('HSET', P .. 'wills', id, record)
  call('ZADD', P .. 'due', now + CLAIM_MS, 'p' .. id)
  local wills = pending_wills(P, C)
  wills[#wills + 1] = {epoch = epoch, at = at}
  list_pending(P, C, wills)
  return id
end

-- What this edge publishes for this client takes effect from now on only if its epoch is not lower.
-- Returns the id of the entry of the change log that says so.
local function fence(P, C, edge, epoch) return log_change(P, 'f', C, 'g', edge, 'e', epoch) end

-- Claims a pending will for another edge; the one that has published it so far is fenced. Returns the
-- id of the fence, if one was needed.
local function move_will(P, C, will, at, epoch, now)
  local id, before = will.epoch .. ':' .. C, will.at
  call('ZADD', P .. 'due', now + CLAIM_MS, 'p' .. id)
  will.at = at
  if before ~= '' and before ~= at then return fence(P, C, before, epoch) end
end

-- Claims the pending wills of a client for another edge, and forgets those that have been published.
-- Returns ids and records in turn, and the id of the last fence ('' = none).
local function move_wills(P, C, pending, edge, epoch, now)
  local wills, left, fenced = {}, {}, ''
  for _, one in ipairs(pending) do
    local id = one.epoch .. ':' .. C
    local record = call('HGET', P .. 'wills', id)
    if record then
      fenced = move_will(P, C, one, edge, epoch, now) or fenced
      left[#left + 1] = one
      wills[#wills + 1] = id
      wills[#wills + 1] = record
    end
  end
  if #pending > 0 then list_pending(P, C, left) end
  return wills, fenced
end

-- Counts a durable session for its user, or no longer.
local function count_session(P, user, number)
  if call('HINCRBY', P .. 'users', user, number) <= 0 then call('HDEL', P .. 'users', user) end
end

-- Deletes the state of one incarnation of a session; the session hash f is the caller's to delete. A
-- queue that may hold messages of shared subscriptions becomes an abandoned queue for other members of
-- these, with what is known of the entries that were sent. It frees memory first, so that sessions can
-- end when it is full.
local function discard(P, C, f, now, sent, uncertain)
  local name = C .. ':' .. f.i
  local q, lost = P .. 'q:' .. name, P .. 'lost:' .. name
  lengths[q] = nil
  local queued = call('XLEN', q)
  local kept = f.h and queued > 0
  if kept then
    call('RENAME', q, lost)
  elseif queued > 0 then
    queued_at_end = queued_at_end + queued
    if not uncertain then
      queued = queued - call('XTRIM', q, 'MINID', string.format('1-%.0f', tonumber(sent) + 1))
    end
    unsent_at_end = unsent_at_end + queued
  end
  call('UNLINK', q, P .. 'x:' .. name, P .. 'o:' .. C, P .. 'r:' .. C, P .. 'w:' .. C, P .. 'b:' .. C,
    P .. 'y:' .. C)
  if f.v then
    call('UNLINK', P .. 'v:' .. name)
    call('ZREM', P .. 'queued-due', name)
  end
  call('SREM', P .. 'durable', C)
  if f.o then count_session(P, f.o, -1) end
  if kept then
    call('EXPIRE', lost, ABANDONED_S)
    call('HSET', P .. 'lost', name, sent .. ' ' .. (uncertain and 1 or 0))
    call('ZADD', P .. 'due', now, 'g' .. name)
  end
  log_change(P, 'e', C, 'i', f.i)
end

-- Ends a connection. When its edge ends it (known), it is known what was sent; for sessions of a lost
-- edge it stays unknown. Returns the incarnation that ended or 0, and the id and record of a due will.
-- Edge at publishes a will that is due.
local function disconnect(P, C, f, now, publish_will, known, sent, at)
  local s = P .. 's:' .. C
  sent = math.max(tonumber(f.n), sent)
  local expiry, incarnation = tonumber(f.x), tonumber(f.i)
  local stays = incarnation > 0 and expiry > 0
  local delay = tonumber(f.l or '0')
  local armed = f.w and publish_will and stays and delay > 0
  local id, record = '', ''
  if f.w and publish_will and not armed then
    record = f.w
    id = pend_will(P, C, f.e, record, now, at)
  end
  if not stays then
    call('DEL', s)
    if incarnation > 0 then discard(P, C, f, now, sent, not known) end
    call('SREM', P .. 'g:' .. f.g, C)
    return incarnation, id, record
  end
  if armed then
    call('HSET', s, 'a', now + delay * 1000)
    call('ZADD', P .. 'due', now + delay * 1000, 'w' .. C)
  end
  if expiry < NEVER then
    call('ZADD', P .. 'due', now + expiry * 1000, 's' .. C)
    call('HSET', s, 'd', now + expiry * 1000)
  end
  if f.h then call('ZADD', P .. 'due', now + GRACE_MS, 'm' .. C) end
  if known then
    call('HSET', s, 'g', '', 'x', expiry, 'u', '0', 'n', sent)
  else
    -- A new epoch: if the edge still runs after all, its connection is fenced.
    call('HSET', s, 'g', '', 'e', next_epoch(P))
  end
  if f.w and not armed then call('HDEL', s, 'w', 'l') end
  call('SREM', P .. 'g:' .. f.g, C)
  return 0, id, record
end

local function session(P, C)
  local v = call('HMGET', P .. 's:' .. C, 'e', 'g', 'i', 'x', 'n', 'u', 'd', 'w', 'l', 'a', 'h', 'k', 'v',
    'o')
  if not v[1] then return nil end
  return {e = v[1], g = v[2], i = v[3], x = v[4], n = v[5], u = v[6], d = v[7], w = v[8], l = v[9],
    a = v[10], h = v[11], k = v[12], v = v[13], o = v[14]}
end

-- Whether a request of an edge for this client is late: it was sent again, through another router, and
-- that attempt has been stored, or one at a later request of the same process. A router that hung
-- brings the earlier one. Number: '' = never sent again; tries: how often it had been sent before.
local function is_late(P, C, edge, number, tries)
  if number == '' then return false end
  local late, tries = P .. 'late:' .. edge, tonumber(tries)
  local newest, newest_tries = string.match(call('HGET', late, C) or '', '^(%d+) (%d+)$')
  local ahead = 1
  if newest then
    local process = math.floor(tonumber(newest) / PROCESS_NUMBERS)
    if process == math.floor(tonumber(number) / PROCESS_NUMBERS) then
      ahead = tonumber(number) - tonumber(newest)
    end
  end
  if ahead == 0 and tries < tonumber(newest_tries) or ahead < 0 and tries == 0 then return true end
  if tries > 0 and ahead >= 0 then
    call('HSET', late, C, number .. ' ' .. tries)
    call('EXPIRE', late, LATE_S)
  end
  return false
end
