-- The queue of a durable session, and its deliveries in flight: what runs for every message.

local IDENTITIES = 4096
local IDENTITY_AGE_S = 86400
-- Records that are not larger are not compared with the bytes that a queue may have.
local SMALL_BYTES = 1024
local MOST_BYTES = tonumber(ARGV[4])
-- Of how many nodes of a queue the size is read; the rest is taken for as large.
local SAMPLES = 1000

local clock

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

-- With evict: how many entries an operation has removed from each queue.
local evicted_of

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
      evicted_of[q] = (evicted_of[q] or 0) + 1 - dead
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
    id = call('XADD', q, 'NOMKSTREAM', '1-*', 'm', record)
  elseif evict then
    local count = length + 1 - limit
    local dead = expiry.forget_oldest(q, of, now, count)
    id = call('XADD', q, 'NOMKSTREAM', 'MAXLEN', '=', limit, '1-*', 'm', record)
    evicted = evicted + count - dead
    evicted_of[q] = (evicted_of[q] or 0) + count - dead
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

-- arguments: writer, now, count of queues, (P, C, incarnation) of each, (number of the queue, negative
--   if the message is claimed for it, identity or '', record)…
-- result: for each message the id of its entry, or 0 = full, -1 = no such session, -2 =
--   duplicate, -3 = the writer is fenced, -4 = the server is full, -5 = too many bytes; then for each
--   queue the edge and the epoch of the session's connection ('' = offline); with drop_oldest, if entries
--   were removed, a table at the end: number of the queue, how many, …
local function append(i, last)
  local limit, evict, now = tonumber(ARGV[1]), ARGV[2] == '1', tonumber(ARGV[i + 1])
  local queues, first = {}, i + 3
  local from = first + 3 * tonumber(ARGV[i + 2])
  local fenced, earliest = fences_of(ARGV[i], first, from - 1, 3), nil
  if expiry then expiry.begin() end
  evicted_of = evict and {} or nil
  for at = first, from - 1, 3 do
    queues[#queues + 1] = not fenced[ARGV[at]]
      and ARGV[at] .. 'q:' .. ARGV[at + 1] .. ':' .. ARGV[at + 2]
  end
  local results = {}
  for at = from, last, 3 do
    local n, identity, record = tonumber(ARGV[at]), ARGV[at + 1], ARGV[at + 2]
    local claimed = n < 0
    if claimed then n = -n end
    local of, x, result = first + 3 * n - 3, nil, -3
    if identity ~= '' then x = ARGV[of] .. 'x:' .. ARGV[of + 1] .. ':' .. ARGV[of + 2] end
    if queues[n] and full then
      result = refuse(queues[n], x, identity, claimed)
    elseif queues[n] then
      result = append_one(queues[n], x, identity, record, limit, evict, of, now, claimed)
      local form, flags = string.byte(record, 1, 2)
      if form == QUEUED and flags % 16 >= 8 and type(result) == 'string' then
        earliest = earliest or {}
        earliest[of] = (expiry or make_expiry()).note(of, result, record, earliest[of])
      end
    end
    results[#results + 1] = result
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
      if (evicted_of[q] or 0) > 0 then
        removed[#removed + 1], removed[#removed + 2] = n, evicted_of[q]
      end
    end
    results[#results + 1] = removed
  end
  return results
end

-- arguments: queue key, after seq, maximum count, maximum bytes; result: {id, record, id, record, …}
local function fetch(i)
  local q, from = ARGV[i], '(1-' .. ARGV[i + 1]
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
    end
    if #entries < step or used >= bytes then return found end
    count = count - step
    from = '(' .. entries[step][1]
    -- Read on by as much as should still fit, so that large records are not read for nothing.
    step = math.max(1, math.min(256, math.floor((bytes - used) / (2 * used / #found))))
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
