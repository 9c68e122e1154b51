-- The subscriptions of durable sessions.

-- arguments: P, C, epoch, (topic filter, options)…
-- result: 0 = fenced, -1 = not durable, else the id of the log entry that has it all
local function subscribe(i, last)
  local P, C = ARGV[i], ARGV[i + 1]
  local incarnation = owned(P, C, ARGV[i + 2])
  if not incarnation then return 0 end
  if incarnation == '0' then return -1 end
  local b, id = P .. 'b:' .. C, nil
  for from = i + 3, last, 1000 do
    local to = math.min(last, from + 999)
    local names, current, changed, shared = {}, {}, {}, false
    for at = from, to, 2 do names[#names + 1] = ARGV[at] end
    local known = call('HMGET', b, unpack(names))
    for n, name in ipairs(names) do current[name] = known[n] end
    for at = from, to, 2 do
      local name, options = ARGV[at], ARGV[at + 1]
      if current[name] ~= options then
        current[name] = options
        shared = shared or string.sub(name, 1, 7) == '$share/'
        changed[#changed + 1] = name
        changed[#changed + 1] = options
      end
    end
    if #changed > 0 then
      call('HSET', b, unpack(changed))
      if shared then call('HSET', P .. 's:' .. C, 'h', 1) end
      id = log_change(P, 's', C, 'i', incarnation, unpack(changed))
    end
  end
  -- Clients subscribe again when they come back; the entry of an equal one may still be unread.
  return id or log_end(P) or -1
end

-- arguments: P, C, epoch, topic filter…; result: as of subscribe
local function unsubscribe(i, last)
  local P, C = ARGV[i], ARGV[i + 1]
  local incarnation = owned(P, C, ARGV[i + 2])
  if not incarnation then return 0 end
  if incarnation == '0' then return -1 end
  local id
  for from = i + 3, last, 1000 do
    local to = math.min(last, from + 999)
    if call('HDEL', P .. 'b:' .. C, unpack(ARGV, from, to)) > 0 then
      local words = {}
      for at = from, to do
        words[#words + 1] = ARGV[at]
        words[#words + 1] = ''
      end
      id = log_change(P, 'u', C, 'i', incarnation, unpack(words))
    end
  end
  return id or log_end(P) or -1
end

-- arguments: P, cursor, how many; result: {next cursor, {C, incarnation, edge, epoch, {filter,
--   options, …}, …}}
local function durable_sessions(i)
  local P = ARGV[i]
  local page = call('SSCAN', P .. 'durable', ARGV[i + 1], 'COUNT', ARGV[i + 2])
  local found = {}
  for _, C in ipairs(page[2]) do
    local v = call('HMGET', P .. 's:' .. C, 'i', 'g', 'e')
    if v[1] then
      found[#found + 1] = C
      found[#found + 1] = v[1]
      found[#found + 1] = v[2]
      found[#found + 1] = v[3]
      found[#found + 1] = call('HGETALL', P .. 'b:' .. C)
    end
  end
  return {page[1], found}
end
