-- Reading what a backup holds. Nothing is changed, and each operation returns a bounded part: the first
-- one of a client says what its state is at that moment, and how far its queue goes; later ones read on
-- in the queue, to which nothing is added up to there.

-- Entries of a queue from an id on, by about so many bytes; result: {id, record, …}, and 1 = there may
-- be more.
local function read_entries(q, from, bytes)
  local found, step = {}, 16
  while true do
    local entries = call('XRANGE', q, from, '+', 'COUNT', step)
    for _, entry in ipairs(entries) do
      found[#found + 1] = entry[1]
      found[#found + 1] = entry[2][2]
      bytes = bytes - #entry[2][2] - 64
    end
    if #entries < step then return found, 0 end
    if bytes <= 0 then return found, 1 end
    from = '(' .. entries[step][1]
  end
end

-- The abandoned queues of a client: name, state, entries, 1 = there may be more, … of each.
local function abandoned_of(P, C, bytes)
  local all, found = call('HGETALL', P .. 'lost'), {}
  for n = 1, #all, 2 do
    local owner = string.match(all[n], '^(.*):%d+$')
    if owner == C then
      local entries, more = read_entries(P .. 'lost:' .. all[n], '-', bytes)
      found[#found + 1] = all[n]
      found[#found + 1] = all[n + 1]
      found[#found + 1] = entries
      found[#found + 1] = more
    end
  end
  return found
end

-- arguments: P, C, maximum bytes of entries
-- result: {fields of the session, subscriptions, retained messages to be sent, receipts, wraps,
--   released, identities with scores, {epoch, record, …} of pending wills, last seq, entries of the
--   queue, 1 = there may be more, abandoned queues}
local function read_client(i)
  local P, C, bytes = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  local fields, f = call('HGETALL', P .. 's:' .. C), session(P, C)
  local wills, lost = {}, {}
  for _, one in ipairs(pending_wills(P, C)) do
    local record = call('HGET', P .. 'wills', one.epoch .. ':' .. C)
    if record then
      wills[#wills + 1] = one.epoch
      wills[#wills + 1] = record
    end
  end
  if call('HLEN', P .. 'lost') > 0 then lost = abandoned_of(P, C, bytes) end
  if not f or f.i == '0' then
    return {fields, {}, {}, '', {}, {}, {}, wills, 0, {}, 0, lost}
  end
  local name, last, entries, more = C .. ':' .. f.i, 0, {}, 0
  local q = P .. 'q:' .. name
  if call('EXISTS', q) == 1 then
    local stream = call('XINFO', 'STREAM', q)
    for n = 1, #stream, 2 do
      if stream[n] == 'last-generated-id' then last = tonumber(string.sub(stream[n + 1], 3)) end
    end
    entries, more = read_entries(q, '-', bytes)
  end
  return {fields, call('HGETALL', P .. 'b:' .. C), call('HGETALL', P .. 'y:' .. C),
    call('GET', P .. 'r:' .. C) or '', call('HGETALL', P .. 'w:' .. C),
    call('SMEMBERS', P .. 'o:' .. C),
    call('ZRANGEBYSCORE', P .. 'x:' .. name, '-inf', '+inf', 'WITHSCORES'), wills, last, entries, more,
    lost}
end

-- arguments: key of a queue, seq after which is read, maximum bytes
-- result: {1 = the queue is there, entries, 1 = there may be more}
local function read_queue(i)
  local q = ARGV[i]
  if call('EXISTS', q) == 0 then return {0, {}, 0} end
  local entries, more = read_entries(q, '(1-' .. ARGV[i + 1], tonumber(ARGV[i + 2]))
  return {1, entries, more}
end

-- arguments: P, cursor, count; result: {next cursor, {topic, record, what it counts for ('' = no
--   quota), …}}
local function read_retained(i)
  local P = ARGV[i]
  local page, found = call('HSCAN', P .. 'retained', ARGV[i + 1], 'COUNT', ARGV[i + 2]), {}
  for n = 1, #page[2], 2 do
    found[#found + 1] = page[2][n]
    found[#found + 1] = page[2][n + 1]
    found[#found + 1] = call('HGET', P .. 'retained-by', page[2][n]) or ''
  end
  return {page[1], found}
end
