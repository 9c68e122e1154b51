-- What several operations share: the session hash, its end, and the way of a will.
--
-- P is a partition's prefix, C a client identifier. Session hash fields (P..'s:'..C):
--   e epoch | g edge, '' when offline | i incarnation, 0 = not durable | x session expiry, seconds
--   n sent seq | u '1' while nobody has said which entries were sent | d when it ends, offline only
--   w will record | l will delay, seconds | a when the armed will is due, offline only
-- Writes that need memory come before those that free it: when the server is full the first one
-- fails, and nothing has changed.

local call = redis.call
local NEVER = 4294967295
local CLAIM_MS = 10000
local IDENTITIES = 4096
local IDENTITY_AGE_S = 86400
local FENCE_S = 86400
local LOG_BYTES = 4194304
local LOG_AGE_MS = 600000

-- Lengths of queues read during this call; whoever takes from a queue forgets its length.
local lengths = {}
-- Entries that drop_oldest has thrown away during this call.
local evicted = 0

-- Where a writer was declared dead: a table of partitions, of which those in ARGV at first, first +
-- step, … last are looked up, each once in a call.
local fences = {}
local function fences_of(writer, first, last, step)
  local known = fences[writer]
  if not known then
    known = {}
    fences[writer] = known
  end
  if writer == '' then return known end
  local keys, asked = {}, {}
  for at = first, last, step do
    local P = ARGV[at]
    if known[P] == nil then
      known[P] = false
      asked[#asked + 1] = P
      keys[#keys + 1] = P .. 'f:' .. writer
    end
  end
  if #keys > 0 and call('EXISTS', unpack(keys)) > 0 then
    for n, P in ipairs(asked) do known[P] = call('EXISTS', keys[n]) == 1 end
  end
  return known
end

-- Adds an entry to the partition's change log and returns its id. The words are the entry's fields
-- and values; docs/storage.md lists them. The log is bounded by bytes: when as much as LOG_BYTES has
-- come since the last mark, what is older than that mark goes. Call it after the change itself: the
-- first write of a script is refused when memory is full, and later ones are not.
local function note(P, ...)
  local log, size, bytes = P .. 'log', P .. 'log-size', 100
  local id = call('XADD', log, '*', ...)
  for n = 1, select('#', ...) do bytes = bytes + #tostring(select(n, ...)) end
  if call('HINCRBY', size, 'n', bytes) > LOG_BYTES then
    local mark = call('HGET', size, 'm')
    if mark then call('XTRIM', log, 'MINID', '~', mark, 'LIMIT', 0) end
    call('HSET', size, 'n', 0, 'm', id)
  end
  return id
end

-- The id of the newest entry of the change log, nil when there has never been one.
local function log_end(P)
  local newest = call('XREVRANGE', P .. 'log', '+', '-', 'COUNT', 1)
  return newest[1] and newest[1][1]
end

-- Offers a will for publication: it stays until the broker says that it has published it.
local function pend_will(P, C, epoch, record, now)
  local id = epoch .. ':' .. C
  call('HSET', P .. 'wills', id, record)
  call('ZADD', P .. 'due', now + CLAIM_MS, 'p' .. id)
  return id
end

-- Deletes what one life of a session has kept; the session hash is the caller's.
-- It frees memory first, so that sessions can end when memory is full.
local function discard(P, C, incarnation)
  local q = P .. 'q:' .. C .. ':' .. incarnation
  lengths[q] = nil
  call('UNLINK', q, P .. 'x:' .. C .. ':' .. incarnation, P .. 'o:' .. C,
    P .. 'r:' .. C, P .. 'w:' .. C, P .. 'b:' .. C)
  call('SREM', P .. 'durable', C)
  note(P, 'e', C, 'i', incarnation)
end

-- Ends a live connection. An edge's own word (known) says what was sent; a lost edge's sessions
-- stay uncertain. Returns the incarnation that ended or 0, and the id and record of a due will.
local function disconnect(P, C, f, now, publish_will, known, sent)
  local s = P .. 's:' .. C
  local expiry, incarnation = tonumber(f.x), tonumber(f.i)
  local stays = incarnation > 0 and expiry > 0
  local delay = tonumber(f.l or '0')
  local armed = f.w and publish_will and stays and delay > 0
  local id, record = '', ''
  if f.w and publish_will and not armed then
    record = f.w
    id = pend_will(P, C, f.e, record, now)
  end
  if not stays then
    call('DEL', s)
    if incarnation > 0 then discard(P, C, f.i) end
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
  if known then
    call('HSET', s, 'g', '', 'x', expiry, 'u', '0', 'n', math.max(tonumber(f.n), sent))
  else
    -- A new epoch: should the edge be alive after all, its connection owns nothing any more.
    call('HSET', s, 'g', '', 'e', call('INCR', P .. 'epoch'))
  end
  if f.w and not armed then call('HDEL', s, 'w', 'l') end
  call('SREM', P .. 'g:' .. f.g, C)
  return 0, id, record
end

local function session(P, C)
  local v = call('HMGET', P .. 's:' .. C, 'e', 'g', 'i', 'x', 'n', 'u', 'd', 'w', 'l', 'a')
  if not v[1] then return nil end
  return {e = v[1], g = v[2], i = v[3], x = v[4], n = v[5], u = v[6], d = v[7], w = v[8], l = v[9],
    a = v[10]}
end

-- The incarnation of the session if this epoch owns it, else nil.
local function owned(P, C, epoch)
  local v = call('HMGET', P .. 's:' .. C, 'e', 'i')
  if v[1] ~= epoch then return nil end
  return v[2]
end
