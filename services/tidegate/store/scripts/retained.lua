-- Retained messages: a hash topic → record and a sorted set topic → expiry in each partition.

-- Those that count for quotas are in a hash topic → '<bytes> <owner>' besides, and their sums in a hash:
-- 'n' and 'b' with the owner's name behind it → number, bytes; without a name: of all owners.

-- Adds to the sums of an owner.
local function charge(use, owner, number, bytes)
  if number ~= 0 and call('HINCRBY', use, 'n' .. owner, number) == 0 then
    call('HDEL', use, 'n' .. owner, 'b' .. owner)
  elseif bytes ~= 0 then
    call('HINCRBY', use, 'b' .. owner, bytes)
  end
end

-- The owner of a topic's message that counts, and its bytes; nil if there is none.
local function owner_of(P, topic)
  local found = call('HGET', P .. 'retained-by', topic)
  if not found then return nil, 0 end
  local bytes, owner = string.match(found, '^(%d+) (.*)$')
  return owner, tonumber(bytes)
end

-- Removes a topic's message. Result: whether there was one; its owner and bytes, if it counts.
local function remove_retained(P, topic)
  local existed = call('HDEL', P .. 'retained', topic) == 1
  if existed then log_change(P, 'd', topic) end
  call('ZREM', P .. 'retained-due', topic)
  local owner, bytes = owner_of(P, topic)
  if owner then
    call('HDEL', P .. 'retained-by', topic)
    charge(P .. 'retained-use', owner, -1, -bytes)
    charge(P .. 'retained-use', '', -1, -bytes)
  end
  return existed, owner, bytes
end

-- Whether what is to be added exceeds what is left; '' = no limit.
local function exceeds(added, left) return added > 0 and left ~= '' and added > tonumber(left) end

-- arguments: P, topic, record ('' removes), expiry (0 = never), writer; and if it counts: owner, how many
--   messages and bytes this one may have more, how many all owners together ('' = no limit); and if it has
--   an identity, or one of those that it replaces at the router: these five, '' = it does not count, then
--   the identities, the newest first, '' = none
-- result: 0 = the writer is fenced, 1 = done, 2 = the server is full, less than 0: nothing was done, for so
--   many of the newest identities are known; if it counts, or what it replaces:
--   {1 = done or 3 = over a quota, messages and bytes that its owner has more, those that all have
--   more, the owner of what was replaced ('' = none), its bytes}
--
-- QoS 2 publishes and wills have identities, for they may come again by another router when something newer
-- is retained: a sorted set has those that were stored last in a partition. (No functions for that: they
-- would be made in every call.)
local function set_retained(i, last)
  local P, topic, record, expiry = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  if fences_of(ARGV[i + 4], i, i, 1)[P] then return 0 end
  local x, at = last >= i + 10 and P .. 'retained-x', i + 10
  if x then
    while at <= last and ARGV[at] ~= '' and call('ZADD', x, 'XX', 'INCR', 0, ARGV[at]) do at = at + 1 end
    if at > i + 10 then return i + 10 - at end
  end
  local removes, counts, result, owner, before, bytes = record == '', false, 1, '', nil, 0
  if not removes then
    if full then
      -- What is replaced makes room for itself.
      local there = call('HGET', P .. 'retained', topic)
      if not there or #there < #record then return 2 end
    end
    counts = last >= i + 5 and ARGV[i + 5] ~= ''
    before, bytes = owner_of(P, topic)
  end
  if counts then
    owner = ARGV[i + 5]
    local size = #topic + #record
    result = {1, 1, size, before and 0 or 1, size - bytes, before or '', bytes}
    if before == owner then
      result[2], result[3], result[6], result[7] = 0, size - bytes, '', 0
    end
    for n = 2, 5 do
      if exceeds(result[n], ARGV[i + 4 + n]) then
        result[1] = 3
        return result
      end
    end
  end
  if x then
    local time = call('TIME')
    local score = time[1] * 1000000 + time[2]
    for n = last, i + 10, -1 do
      if ARGV[n] ~= '' then call('ZADD', x, 'NX', score + last - n, ARGV[n]) end
    end
    call('EXPIRE', x, IDENTITY_AGE_S)
    -- Bounded by count, which may be exceeded by a little.
    if call('ZCARD', x) > IDENTITIES + 64 then call('ZREMRANGEBYRANK', x, 0, -1 - IDENTITIES) end
  end
  if removes then
    local _, had, freed = remove_retained(P, topic)
    return had and {1, 0, 0, -1, -freed, had, freed} or 1
  end
  if expiry ~= '0' then call('ZADD', P .. 'retained-due', expiry, topic) end
  if call('HSET', P .. 'retained', topic, record) == 1 then log_change(P, 'r', topic) end
  if expiry == '0' then call('ZREM', P .. 'retained-due', topic) end
  local use = P .. 'retained-use'
  if before and before ~= owner then charge(use, before, -1, -bytes) end
  if counts then
    call('HSET', P .. 'retained-by', topic, #topic + #record .. ' ' .. owner)
    charge(use, owner, result[2], result[3])
    charge(use, '', result[4], result[5])
  elseif before then
    call('HDEL', P .. 'retained-by', topic)
    charge(use, '', -1, -bytes)
    result = {1, 0, 0, -1, -bytes, before, bytes}
  end
  return result
end

-- arguments: maximum bytes, (P, topic)…; result: the records, false where there is none; fewer than
-- asked for (but at least one) when they are too large together
local function get_retained(i, last)
  local records, left = {}, tonumber(ARGV[i])
  for at = i + 1, last, 2 do
    local record = call('HGET', ARGV[at] .. 'retained', ARGV[at + 1])
    records[#records + 1] = record
    left = left - (record and #record or 0)
    if left <= 0 then break end
  end
  return records
end
