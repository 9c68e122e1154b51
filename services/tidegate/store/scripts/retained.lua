-- Retained messages: a hash topic → record and a sorted set topic → expiry in each partition.

-- arguments: P, topic, record ('' removes), expiry (0 = never), writer
-- result: 0 = the writer is fenced, 1 = done, 2 = the server is full
local function set_retained(i)
  local P, topic, record, expiry = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  if fences_of(ARGV[i + 4], i, i, 1)[P] then return 0 end
  if record == '' then
    if call('HDEL', P .. 'retained', topic) == 1 then log_change(P, 'd', topic) end
    call('ZREM', P .. 'retained-due', topic)
    return 1
  end
  if full then
    -- What is replaced makes room for itself.
    local before = call('HGET', P .. 'retained', topic)
    if not before or #before < #record then return 2 end
  end
  if expiry ~= '0' then call('ZADD', P .. 'retained-due', expiry, topic) end
  if call('HSET', P .. 'retained', topic, record) == 1 then log_change(P, 'r', topic) end
  if expiry == '0' then call('ZREM', P .. 'retained-due', topic) end
  return 1
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
