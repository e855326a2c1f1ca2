package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
)

// status is what the admin API tells of the stores: the part that is printed.
type status struct {
	Stores []struct {
		Store  string `json:"store"`
		Limits struct {
			MaxFields int64  `json:"max_fields"`
			MaxMemory uint64 `json:"max_memory"`
			MaxHeld   int64  `json:"max_held"`
		} `json:"limits"`
		Held              int64  `json:"held"`
		Fields            int64  `json:"fields"`
		Messages          int64  `json:"messages"`
		Memory            uint64 `json:"memory"`
		PublishedMessages int64  `json:"published_messages"`
		PublishedBytes    uint64 `json:"published_bytes"`
		EvictedMessages   int64  `json:"evicted_messages"`
		EvictedFields     int64  `json:"evicted_fields"`
	} `json:"stores"`
}

func cmdStatus(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%q is an argument too many", args[0])
	}
	address, _ := cmd.Flags().GetString("address")
	configFile, _ := cmd.Flags().GetString("config")
	adapter, _ := cmd.Flags().GetString("adapter")
	asJSON, _ := cmd.Flags().GetBool("json")

	var config []byte
	var err error
	if address == "" {
		caddy.BufferedLog() // of what Caddy logs about the file, what matters is an error, too
		if config, configFile, _, err = caddycmd.LoadConfig(configFile, adapter); err != nil {
			return fmt.Errorf("reading the config file for the admin address: %w (--address gives it)", err)
		}
	}
	address, err = caddycmd.DetermineAdminAPIAddress(address, config, configFile, adapter)
	if err != nil {
		return fmt.Errorf("looking for the admin address: %w (--address gives it)", err)
	}
	res, err := caddycmd.AdminAPIRequest(address, http.MethodGet, "/comet/", nil, nil)
	if err != nil {
		line := strings.Join(strings.Fields(err.Error()), " ") // the answer ends with a line break
		return fmt.Errorf("the admin API at %s: %s (is comet running with this admin address? --address names another)", address, line)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return fmt.Errorf("the admin API at %s: %w", address, err)
	}
	var s status
	if err := json.Unmarshal(body, &s); err != nil {
		return fmt.Errorf("the admin API at %s does not answer as Comet does: %w", address, err)
	}
	if asJSON {
		_, err = cmd.OutOrStdout().Write(body)
		return err
	}
	if len(s.Stores) == 0 {
		return errors.New("there is no store: no site of the running configuration has the directive comet")
	}
	return s.print(cmd.OutOrStdout())
}

// print writes a table with a line for each store.
func (s *status) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "STORE\tHELD\tFIELDS\tMESSAGES\tMEMORY\tPUBLISHED\tEVICTED")
	for _, o := range s.Stores {
		fmt.Fprintf(w, "%s\t%s of %s\t%s of %s\t%s\t%s of %s\t%s, %s\t%s, %s fields\n", o.Store,
			humanize.Comma(o.Held), humanize.Comma(o.Limits.MaxHeld),
			humanize.Comma(o.Fields), humanize.Comma(o.Limits.MaxFields),
			humanize.Comma(o.Messages),
			humanize.IBytes(o.Memory), humanize.IBytes(o.Limits.MaxMemory),
			humanize.Comma(o.PublishedMessages), humanize.IBytes(o.PublishedBytes),
			humanize.Comma(o.EvictedMessages), humanize.Comma(o.EvictedFields))
	}
	return w.Flush()
}
