#!/bin/sh
# Prints the data of each event of the stream at $1. The id of the last one is kept in the file $2, for the next visit.
while :; do
    id=$(cat "$2")
    curl --silent --no-buffer --header 'Accept: text/event-stream' --header "Last-Event-ID: $id" "$1" |
        while IFS= read -r line; do
            case $line in
            "id: "*) id=${line#id: } ;;
            "event: "*) event=${line#event: } ;;
            "data: "*) data=${line#data: } ;;
            "")
                [ -z "$data" ] || [ -n "$event" ] || printf '%s\n' "$data"
                printf '%s' "$id" >"$2"
                data='' event=''
                ;;
            esac
        done
    sleep 1
done
