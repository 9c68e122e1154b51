-- The queue of a durable session, and its deliveries in flight: what runs for every message.

local IDENTITIES = 4096
local IDENTITY_AGE_S = 86400
-- Records that are not larger are not compared with the bytes that a queue may have.
local SMALL_BYTES = 1024
local MOST_BYTES = tonumber(ARGV[4])
-- Of how many nodes of a queue the size is read; the rest is taken for as large.
local SAMPLES = 1000

local byte = string.byte

local clock

-- The time of an operation in seconds, for the entries that it appends.
local queued_at

-- Records a QoS 2 publish; false when it is known to this session. Bounded by count and by age; both
-- are checked at every 64th, so that the bound may be exceeded by a little.
local function is_new(x, identity)
  clock = clock or tonumber(call('TIME')[1])
  if call('ZADD', x, 'NX', clock, identity) == 0 then return false end
  call('EXPIRE', x, IDENTITY_AGE_S)
  if call('ZCARD', x) % 64 == 0 then
    call('ZREMRANGEBYSCORE', x, '-inf', clock - IDENTITY_AGE_S)
    call('ZREMRANGEBYRANK', x, 0, -1 - IDENTITIES)
  end
  return true
end

-- Whether a known identity is that of a claimed message that this queue has refused.
local function was_refused(x, identity)
  if call('ZADD', x, 'NX', clock, identity .. '!') == 0 then return true end
  call('ZREM', x, identity .. '!')
  return false
end

-- Bytes of queues whose lengths are known, read during this call.
local sizes = {}

local function read_size(q, length)
  local size = length > 0 and redis.pcall('MEMORY', 'USAGE', q, 'SAMPLES', SAMPLES) or 0
  return type(size) == 'number' and size or 0
end

-- With evict: how many entries an operation has removed from each queue, and the topic of the first.
local evicted_of

-- Notes that the oldest entries of a queue are removed: so many, and the record of the first one, or
-- nil while it has to be read. Called before they are.
local function note_evicted(q, count, record)
  local of = evicted_of[q]
  if of then
    of[1] = of[1] + count
  elseif count > 0 then
    record = record or call('XRANGE', q, '-', '+', 'COUNT', 1)[1][2][2]
    local form, _, high, low = byte(record, 1, 4)
    evicted_of[q] = {count, form == QUEUED and string.sub(record, 5, 4 + 256 * high + low) or ''}
  end
end

-- Whether a record exceeds what a queue may have, after expired entries, and with evict the oldest ones,
-- have made room; and the queue's length then.
local function exceeds_bytes(q, record, length, evict, of, now)
  local size = sizes[q] or read_size(q, length)
  if size + #record > MOST_BYTES and length > 0 then
    (expiry or make_expiry()).delete_expired(ARGV[of], ARGV[of + 1], ARGV[of + 2], now, length)
    length = call('XLEN', q)
    size = read_size(q, length)
    while evict and size + #record > MOST_BYTES and length > 0 and #record <= MOST_BYTES do
      local oldest = call('XRANGE', q, '-', '+', 'COUNT', 1)[1]
      local dead = expiry.forget_oldest(q, of, now, 1)
      call('XDEL', q, oldest[1])
      size, length = size - #oldest[2][2], length - 1
      evicted, expired = evicted + 1 - dead, expired + dead
      note_evicted(q, 1 - dead, oldest[2][2])
    end
  end
  lengths[q], sizes[q] = length, size
  return size + #record > MOST_BYTES, length
end

-- x is the key of the identities, nil when this message has none. A claimed message that is refused
-- is refused for good: its claim is moved to another member then.
local function append_one(q, x, identity, record, limit, evict, of, now, claimed)
  if x and not is_new(x, identity) then return claimed and was_refused(x, identity) and 0 or -2 end
  local length, id, over = lengths[q], nil, false
  if not length then length, sizes[q] = call('XLEN', q), nil end
  if MOST_BYTES > 0 and #record > SMALL_BYTES then
    over, length = exceeds_bytes(q, record, length, evict, of, now)
  end
  if not over and length >= limit then
    length, limit = (expiry or make_expiry()).make_room(q, of, now, length, limit)
  end
  if over then
    id = nil
  elseif length < limit then
    if length > 0 then -- then there is one
      id = call('XADD', q, '1-*', 'm', record, 't', queued_at)
    else
      id = call('XADD', q, 'NOMKSTREAM', '1-*', 'm', record, 't', queued_at)
    end
  elseif evict then
    local count = length + 1 - limit
    local dead = expiry.forget_oldest(q, of, now, count)
    note_evicted(q, count - dead)
    id = call('XADD', q, 'NOMKSTREAM', 'MAXLEN', '=', limit, '1-*', 'm', record, 't', queued_at)
    evicted = evicted + count - dead
    expired = expired + dead
    length = limit - 1
  end
  if id then
    lengths[q] = length + 1
    if sizes[q] then sizes[q] = sizes[q] + #record end
    return id
  end
  if length < limit and not over then
    if x then call('ZREM', x, identity) end
    return -1
  end
  if claimed then
    call('ZADD', x, clock, identity .. '!')
  elseif x then
    call('ZREM', x, identity)
  end
  return over and -5 or 0
end

-- What becomes of a message while the server is full: nothing is added, and what is known stays so.
local function refuse(q, x, identity, claimed)
  if call('EXISTS', q) == 0 then return -1 end
  if not x then return -4 end
  clock = clock or tonumber(call('TIME')[1])
  if call('ZADD', x, 'NX', clock, identity) == 0 then
    return claimed and was_refused(x, identity) and 0 or -2
  end
  call('ZREM', x, identity)
  return -4
end

-- arguments: writer, now, count of queues, (P, C, incarnation) of each, then messages in their order:
--   number of the queue, how many follow one another for it, their records; or one with an identity:
--   number of the queue, negative if it is claimed for that, 0, identity, record
-- result: for each message the id of its entry, or 0 = full, -1 = no such session, -2 =
--   duplicate, -3 = the writer is fenced, -4 = the server is full, -5 = too many bytes; then for each
--   queue the edge and the epoch of the session's connection ('' = offline); with drop_oldest, if entries
--   were removed, a table at the end: number of the queue, how many, topic of the first, …
local function append(i, last)
  local limit, evict, now = tonumber(ARGV[1]), ARGV[2] == '1', tonumber(ARGV[i + 1])
  queued_at = string.format('%d', now / 1000)
  local queues, first = {}, i + 3
  local from = first + 3 * tonumber(ARGV[i + 2])
  local fenced, earliest = fences_of(ARGV[i], first, from - 1, 3), nil
  if expiry then expiry.begin() end
  evicted_of = evict and {} or nil
  for at = first, from - 1, 3 do
    queues[#queues + 1] = not fenced[ARGV[at]]
      and ARGV[at] .. 'q:' .. ARGV[at + 1] .. ':' .. ARGV[at + 2]
  end
  local results, done, at = {}, 0, from
  while at < last do
    local n, count, identity, x = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), nil, nil
    local claimed = n < 0
    if claimed then n = -n end
    local q, of = queues[n], first + 3 * n - 3
    at = at + 2
    if count == 0 then
      identity, count, at = ARGV[at], 1, at + 1
      x = ARGV[of] .. 'x:' .. ARGV[of + 1] .. ':' .. ARGV[of + 2]
    end
    for place = at, at + count - 1 do
      local record, result = ARGV[place], -3
      if q and full then
        result = refuse(q, x, identity, claimed)
      elseif q then
        result = append_one(q, x, identity, record, limit, evict, of, now, claimed)
        if (byte(record, 2) or 0) % 16 >= 8 and byte(record) == QUEUED and type(result) == 'string' then
          earliest = earliest or {}
          earliest[of] = (expiry or make_expiry()).note(of, result, record, earliest[of])
        end
      end
      done = done + 1
      results[done] = result
    end
    at = at + count
  end
  for at = first, from - 1, 3 do
    local v = call('HMGET', ARGV[at] .. 's:' .. ARGV[at + 1], 'e', 'g', 'i', 'v')
    local here = v[3] == ARGV[at + 2]
    results[#results + 1] = here and v[2] or ''
    results[#results + 1] = here and v[1] or ''
    if here and earliest and earliest[at] then expiry.schedule(at, earliest[at], v[4]) end
  end
  if evicted_of and next(evicted_of) then
    local removed = {}
    for n, q in ipairs(queues) do
      local of = evicted_of[q]
      if of then removed[#removed + 1], removed[#removed + 2], removed[#removed + 3] = n, of[1], of[2] end
    end
    results[#results + 1] = removed
  end
  return results
end

-- arguments: queue key, after seq, maximum count, maximum bytes, and 1 = with times, or P, C, epoch
-- result: {id, record, id, record, …}, or {id, record, when it was queued ('' = not known), …}; 0 =
--   fenced
local function fetch(i, last)
  local q, from, words = ARGV[i], '(1-' .. ARGV[i + 1], last == i + 4 and 3 or 2
  if last == i + 6 and not owned(ARGV[i + 4], ARGV[i + 5], ARGV[i + 6]) then return 0 end
  local count, bytes = tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  local found, used, step = {}, 0, 8
  while count > 0 do
    step = math.min(step, count)
    local entries = call('XRANGE', q, from, '+', 'COUNT', step)
    for n = 1, #entries do
      local record = entries[n][2][2]
      used = used + #record
      if used > bytes and #found > 0 then return found end
      found[#found + 1] = entries[n][1]
      found[#found + 1] = record
      if words == 3 then found[#found + 1] = entries[n][2][4] or '' end
    end
    if #entries < step or used >= bytes then return found end
    count = count - step
    from = '(' .. entries[step][1]
    -- Read on by as much as should still fit, so that large records are not read for nothing.
    step = math.max(1, math.min(256, math.floor((bytes - used) / (words * used / #found))))
  end
  return found
end

-- arguments: P, C, epoch, seq…; result: 0 = fenced, 1 = done
local function complete(i, last)
  local P, C = ARGV[i], ARGV[i + 1]
  local incarnation, expiring = owned(P, C, ARGV[i + 2])
  if not incarnation then return 0 end
  local q, o = P .. 'q:' .. C .. ':' .. incarnation, P .. 'o:' .. C
  lengths[q] = nil
  for from = i + 3, last, 1000 do
    local to = math.min(last, from + 999)
    local ids = {}
    for at = from, to do ids[#ids + 1] = '1-' .. ARGV[at] end
    call('XDEL', q, unpack(ids))
    call('SREM', o, unpack(ARGV, from, to))
    if expiring then call('ZREM', P .. 'v:' .. C .. ':' .. incarnation, unpack(ARGV, from, to)) end
  end
  return 1
end

-- arguments: P, C, epoch, seq…; result: 0 = fenced, 1 = done
local function release(i, last)
  local P, C = ARGV[i], ARGV[i + 1]
  local incarnation = owned(P, C, ARGV[i + 2])
  if not incarnation then return 0 end
  if incarnation == '0' then return 1 end
  for from = i + 3, last, 1000 do
    call('SADD', P .. 'o:' .. C, unpack(ARGV, from, math.min(last, from + 999)))
  end
  return 1
end

-- arguments: P, C, epoch, packet identifier, byte; result: 0 = fenced, 1 = done
local function receipt(i)
  local P, C, id = ARGV[i], ARGV[i + 1], ARGV[i + 3]
  local incarnation = owned(P, C, ARGV[i + 2])
  if not incarnation then return 0 end
  if incarnation == '0' then return 1 end
  local r, value = P .. 'r:' .. C, tonumber(ARGV[i + 4])
  if value < 2 then
    -- The seven bits that count exchanges have wrapped, unless this is the identifier's first use.
    local before = call('GETRANGE', r, id, id)
    if before ~= '' and string.byte(before) > 253 then call('HINCRBY', P .. 'w:' .. C, id, 1) end
  end
  call('SETRANGE', r, id, string.char(value))
  return 1
end
