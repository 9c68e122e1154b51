-- The subscriptions of durable sessions, and which of them have retained messages still to be sent.

-- Whether a SUBSCRIBE with these options has retained messages sent: Retain Handling is in bits 4-5 of
-- the second byte of a record.
local function wants_retained(options, is_new)
  local handling = math.floor(string.byte(options, 2) / 16) % 4
  return handling == 0 or (handling == 1 and is_new)
end

-- Whether a change of subscriptions is late. The connection's edge numbers them; see is_late.
local function is_late_change(P, C, number, tries)
  return number ~= '' and is_late(P, C, call('HGET', P .. 's:' .. C, 'g'), number, tries)
end

-- arguments: P, C, epoch, number of this change at its edge ('' = it has none), how often it was sent
--   before, generation of the retained messages to be sent ('' = none are; with + at its end all
--   subscriptions count as new), (topic filter, options)…
-- result: 0 = fenced, -1 = not durable, else the id of the log entry that has it all; late changes
--   have no effect. An error where there are new ones, and memory is scarce
local function subscribe(i, last)
  local P, C, generation = ARGV[i], ARGV[i + 1], ARGV[i + 5]
  local count_as_new = string.sub(generation, -1) == '+'
  local incarnation = owned(P, C, ARGV[i + 2])
  if not incarnation then return 0 end
  if incarnation == '0' or is_late_change(P, C, ARGV[i + 3], ARGV[i + 4]) then return -1 end
  local b, id = P .. 'b:' .. C, nil
  for from = i + 6, last, 1000 do
    local to = math.min(last, from + 999)
    local names, current, changed, shared, replays = {}, {}, {}, false, {}
    for at = from, to, 2 do names[#names + 1] = ARGV[at] end
    local known = call('HMGET', b, unpack(names))
    for n, name in ipairs(names) do
      if scarce and not known[n] then return redis.error_reply(SCARCE) end
      current[name] = known[n]
    end
    for at = from, to, 2 do
      local name, options = ARGV[at], ARGV[at + 1]
      if generation ~= '' and string.sub(name, 1, 7) ~= '$share/'
        and wants_retained(options, count_as_new or not current[name]) then
        replays[#replays + 1] = name
        replays[#replays + 1] = generation .. ' '
      end
      if current[name] ~= options then
        current[name] = options
        shared = shared or string.sub(name, 1, 7) == '$share/'
        changed[#changed + 1] = name
        changed[#changed + 1] = options
      end
    end
    if #replays > 0 then call('HSET', P .. 'y:' .. C, unpack(replays)) end
    if #changed > 0 then
      call('HSET', b, unpack(changed))
      if shared then call('HSET', P .. 's:' .. C, 'h', 1) end
      id = log_change(P, 's', C, 'i', incarnation, unpack(changed))
    end
  end
  -- Clients subscribe again when they come back; the entry of an equal one may still be unread.
  return id or log_end(P) or -1
end

-- arguments: P, C, epoch, number, how often it was sent before, topic filter…; as of subscribe
local function unsubscribe(i, last)
  local P, C = ARGV[i], ARGV[i + 1]
  local incarnation = owned(P, C, ARGV[i + 2])
  if not incarnation then return 0 end
  if incarnation == '0' or is_late_change(P, C, ARGV[i + 3], ARGV[i + 4]) then return -1 end
  local id
  for from = i + 5, last, 1000 do
    local to = math.min(last, from + 999)
    if call('HDEL', P .. 'b:' .. C, unpack(ARGV, from, to)) > 0 then
      call('HDEL', P .. 'y:' .. C, unpack(ARGV, from, to))
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

-- arguments: P, C, epoch, (topic filter, generation, topic up to which its retained messages have been
--   sent or queued, '' = all)…
-- result: 0 = fenced, 1 = done
local function replayed(i, last)
  local P, C = ARGV[i], ARGV[i + 1]
  if not owned(P, C, ARGV[i + 2]) then return 0 end
  local y = P .. 'y:' .. C
  for at = i + 3, last, 3 do
    local name, generation, topic = ARGV[at], ARGV[at + 1] .. ' ', ARGV[at + 2]
    local known = call('HGET', y, name)
    if known and string.sub(known, 1, #generation) == generation then
      if topic == '' then call('HDEL', y, name) else call('HSET', y, name, generation .. topic) end
    end
  end
  return 1
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
