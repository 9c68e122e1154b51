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
--   messages and bytes this one may have more, how many all owners together ('' = no limit)
-- result: 0 = the writer is fenced, 1 = done, 2 = the server is full; if it counts, or what it replaces:
--   {1 = done or 3 = over a quota, messages and bytes that its owner has more, those that all have
--   more, the owner of what was replaced ('' = none), its bytes}
local function set_retained(i, last)
  local P, topic, record, expiry = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  if fences_of(ARGV[i + 4], i, i, 1)[P] then return 0 end
  if record == '' then
    local _, owner, bytes = remove_retained(P, topic)
    return owner and {1, 0, 0, -1, -bytes, owner, bytes} or 1
  end
  if full then
    -- What is replaced makes room for itself.
    local before = call('HGET', P .. 'retained', topic)
    if not before or #before < #record then return 2 end
  end
  local counts, result, owner = last >= i + 5, 1, ''
  local before, bytes = owner_of(P, topic)
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
