-- What became of requests of one key. Each is settled once, however often that is said: the one who takes its name
-- from those that run is the first to say so.

local function settle(key, name, ending, slot, tokens, used)
  if call('ZREM', key.running, name) == 0 then
    return
  end
  local known = call('HGET', key.windows, name)
  call('HDEL', key.windows, name)
  if slot == '0' and known then
    -- The gateway did not hear what became of it: only the server knows.
    slot, tokens = string.match(known, '^(%d+) (%d+)$')
  end
  tokens, used = tonumber(tokens) or 0, tonumber(used) or 0
  if ending == 'cancel' and slot ~= '0' then
    give_back(key, slot, 1, tokens)
  elseif ending == 'settle' and used < tokens then
    give_back(key, slot, 0, tokens - used)
  elseif ending == 'settle' and used > tokens then
    add(key, 'c', key.now, 0, used - tokens)
  end
end

-- Gives back what a gateway took in advance and did not use: requests, tokens and places.
local function settle_stock(key, name, slot, requests, tokens, places)
  local known = call('HGET', key.windows, name)
  if not known then
    return
  end
  call('HDEL', key.windows, name)
  if slot == '0' then
    slot, requests, tokens = string.match(known, '^(%d+) (%d+) (%d+)$')
  end
  give_back(key, slot, tonumber(requests), tonumber(tokens))
  for place in string.gmatch(places, '%S+') do
    call('ZREM', key.running, place)
  end
end

-- Reads as many settlements as the argument at `from` says, and returns where the next argument stands.
local function settle_all(key, from)
  local count = tonumber(ARGV[from])
  for number = 0, count - 1 do
    local at = from + 1 + number * 6
    local name, ending = ARGV[at], ARGV[at + 1]
    if ending == 'stock' then
      settle_stock(key, name, ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], ARGV[at + 5])
    else
      settle(key, name, ending, ARGV[at + 2], ARGV[at + 3], ARGV[at + 4])
    end
  end
  if count > 0 then
    save(key)
  end
  return from + 1 + count * 6
end
