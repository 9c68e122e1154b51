-- What many operations share. This part and the queue's and retained messages' are run for every call;
-- the rest is inside of a function that is called when needed, since making it costs microseconds.
--
-- P is a partition's prefix, C a client identifier, I an incarnation. Session hash (P..'s:'..C):
--   e epoch | g edge, '' when offline | i incarnation, 0 = not durable | x session expiry, seconds
--   n sent seq | u '1' when it is not known which entries were sent | d when it ends, offline only
--   w will record | l will delay, seconds | a when the armed will is due, offline only
--   h '1' when it has had a shared subscription | k number of the CONNECT at the edge
--   o user that has made it, '' = anonymous; absent: an older version has made it
--   v when its queue is visited next; there while entries in it may expire
-- Writes that need memory come before those that free it, or after: when the server is full only
-- the first write of a call is refused, and nothing has changed.

local call = redis.call
local LOG_BYTES = 4194304

-- Whether so little of the server's memory is free that messages are refused (full), and so little that
-- subscriptions and large wills are (scarce): half of what is kept free is used. The caller says so ('!',
-- '!!'), or has it looked up: then ARGV[5] is the share of maxmemory that is kept, in thousandths.
local scarce, looked = ARGV[5] == '!!', nil
local full = scarce or ARGV[5] == '!'
local SCARCE = 'OOM only half of the memory reserve is free'
if ARGV[5] ~= '' and not full then
  looked = 0
  local info = redis.pcall('INFO', 'memory')
  if type(info) == 'string' then
    local most = tonumber(string.match(info, '\nmaxmemory:(%d+)') or 0)
    -- Buffers of replicas and of the append-only file do not count.
    local used = tonumber(string.match(info, '\nused_memory:(%d+)') or 0)
      - tonumber(string.match(info, '\nmem_not_counted_for_evict:(%d+)') or 0)
    local kept = most / 1000 * tonumber(ARGV[5])
    full = most > 0 and used > most - kept
    scarce = most > 0 and used > most - kept / 2
    if scarce then looked = 2 elseif full then looked = 1 end
  end
end

-- Lengths of queues read during this call; what removes entries of a queue clears its length.
local lengths = {}
-- During this call: entries that drop_oldest has removed, entries in the queues of sessions that
-- ended, how many of these had not been sent, and expired entries that were deleted.
local evicted, queued_at_end, unsent_at_end, expired = 0, 0, 0, 0

-- Where a writer is fenced: a table of partitions, of which those in ARGV at first, first + step, …
-- last are looked up, each once in a call.
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
-- been added since the last mark, what is older than that mark is deleted. Call it after the change
-- itself: the first write of a script is refused when memory is full, and later ones are not.
local function log_change(P, ...)
  local log, size, bytes = P .. 'log', P .. 'log-size', 100
  local id = call('XADD', log, '*', ...)
  for _, word in ipairs({...}) do bytes = bytes + #tostring(word) end
  if call('HINCRBY', size, 'n', bytes) > LOG_BYTES then
    local mark = call('HGET', size, 'm')
    if mark then call('XTRIM', log, 'MINID', '~', mark, 'LIMIT', 0) end
    call('HSET', size, 'n', 0, 'm', id)
  end
  return id
end

-- The incarnation of the session if this epoch owns it, else nil; and whether entries may expire.
local function owned(P, C, epoch)
  local v = call('HMGET', P .. 's:' .. C, 'e', 'i', 'v')
  if v[1] ~= epoch then return nil end
  return v[2], v[3]
end
